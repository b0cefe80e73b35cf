"""Published embedding models go on training from their own layouts: replicas with the files and keys that each has."""

from __future__ import annotations

import json

import pytest
from tests.conftest import make_tiny_bert
from tests.torch.backbones import make

import torch
from teva_data.artifact import Artifact
from teva_data.rendering import Renderer
from teva_torch.backbones import load_backbone, reads_both_ways
from teva_torch.engine import TorchEngine
from teva_torch.training import train

_QWEN_QUERY = "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:"


def _layout(path, pooling, *, normalize=True, limits=None, general=None, newer=False):
    """modules.json and what it names, as sentence-transformers wrote them when these models came out."""
    kinds = ["Transformer", "Pooling", "Normalize"][: 3 if normalize else 2]
    modules = [
        {"idx": n, "name": str(n), "path": f"{n}_{kind}" if n else "", "type": f"sentence_transformers.models.{kind}"}
        for n, kind in enumerate(kinds)
    ]
    flags = {f"pooling_mode_{mode}": mode == pooling for mode in
             ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens")}  # fmt: skip
    if newer:
        flags |= {"pooling_mode_weightedmean_tokens": False, "pooling_mode_lasttoken": pooling == "lasttoken"}
        flags["include_prompt"] = True
    (path / "1_Pooling").mkdir()
    (path / "1_Pooling/config.json").write_text(json.dumps({"word_embedding_dimension": 32, **flags}))
    (path / "modules.json").write_text(json.dumps(modules))
    if limits is not None:
        (path / "sentence_bert_config.json").write_text(json.dumps(limits))
    if general is not None:
        (path / "config_sentence_transformers.json").write_text(json.dumps(general))
    return path


def _edit(file, **changes):
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


_OLD = {"__version__": {"sentence_transformers": "2.2.2", "transformers": "4.28.1", "pytorch": "1.13.0+cu117"}}


def _bge_en(path):
    make_tiny_bert(path, layout=False)
    return _layout(path, "cls_token", limits={"max_seq_length": 64, "do_lower_case": True}, general=_OLD)


def _bge_m3(path):
    # Its weights are a torch archive, beside heads that the dense vectors do not need.
    make(path, "XLMRoberta")
    from safetensors.torch import load_file

    torch.save(load_file(path / "model.safetensors"), path / "pytorch_model.bin")
    (path / "model.safetensors").unlink()
    torch.save({"weight": torch.zeros(1, 32)}, path / "sparse_linear.pt")
    return _layout(path, "cls_token", limits={"max_seq_length": 64, "do_lower_case": False}, general=_OLD)


def _e5(path):
    make_tiny_bert(path, layout=False)
    return _layout(path, "mean_tokens", limits={"max_seq_length": 64, "do_lower_case": False})


def _gte(path):
    make_tiny_bert(path, layout=False)
    return _layout(path, "mean_tokens", limits={"max_seq_length": 64, "do_lower_case": False})


def _gte_modernbert(path):
    make(path, "ModernBert")
    general = {"__version__": {}, "prompts": {}, "default_prompt_name": None, "similarity_fn_name": "cosine"}
    limits = {"max_seq_length": 64, "do_lower_case": False}
    return _layout(path, "cls_token", normalize=False, limits=limits, general=general, newer=True)


def _gte_qwen2(path):
    # It was trained to read both ways, by code of its own that stock transformers of today has no need of.
    make(path, "Qwen2", ending="$A <eos>")
    names = {"AutoModel": "modeling_qwen.Qwen2Model", "AutoModelForCausalLM": "modeling_qwen.Qwen2ForCausalLM"}
    _edit(path / "config.json", architectures=["Qwen2ForCausalLM"], is_causal=False, auto_map=names)
    general = {"__version__": {}, "prompts": {"query": "Instruct: salt\nQuery: "}, "default_prompt_name": None}
    return _layout(
        path, "lasttoken", limits={"max_seq_length": 64, "do_lower_case": False}, general=general, newer=True
    )


def _qwen3(path):
    # No sentence_bert_config.json: the limit is the tokenizer's. The tokenizer pads on the left and appends EOS.
    make(path, "Qwen3", ending="$A <eos>")
    _edit(path / "config.json", architectures=["Qwen3ForCausalLM"])
    _edit(path / "tokenizer_config.json", padding_side="left")
    general = {
        "prompts": {"query": _QWEN_QUERY, "document": ""}, "default_prompt_name": None, "similarity_fn_name": "cosine",
    }  # fmt: skip
    return _layout(path, "lasttoken", general=general, newer=True)


# Hub id, replica, pooling, length 1, prompts, and whether it reads both ways.
PUBLISHED = {
    "BAAI/bge-small-en-v1.5": (
        _bge_en, "cls", True, ("Represent this sentence for searching relevant passages: ", ""), True,
    ),
    "BAAI/bge-m3": (_bge_m3, "cls", True, ("", ""), True),
    "intfloat/e5-small-v2": (_e5, "mean", True, ("query: ", "passage: "), True),
    "thenlper/gte-small": (_gte, "mean", True, ("", ""), True),
    "Alibaba-NLP/gte-modernbert-base": (_gte_modernbert, "cls", False, ("", ""), True),
    "Alibaba-NLP/gte-Qwen2-1.5B-instruct": (_gte_qwen2, "last", True, ("Instruct: salt\nQuery: ", ""), True),
    "Qwen/Qwen3-Embedding-0.6B": (_qwen3, "last", True, (_QWEN_QUERY, ""), False),
}  # fmt: skip


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Puts a replica into the hub's local cache, under the name that the model is published by."""
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))

    def put(name):
        repository, commit = tmp_path / "hub" / f"models--{name.replace('/', '--')}", "0" * 40
        (repository / "refs").mkdir(parents=True)
        (repository / "refs/main").write_text(commit)
        (repository / "snapshots").mkdir()
        return PUBLISHED[name][0](repository / "snapshots" / commit)

    return put


@pytest.mark.parametrize("name", PUBLISHED)
def test_training_goes_on_from_a_published_layout(recipe, hub, name):
    from sentence_transformers import SentenceTransformer

    path = hub(name)
    _, pooling, normalize, (query, document), both = PUBLISHED[name]
    base = Artifact.load(name)
    assert (base.pooling, base.normalize) == (pooling, normalize)
    assert base.prompts == {"query": query, "document": document}
    assert base.is_decoder is not both
    assert reads_both_ways(load_backbone(base)) is both

    # Before training: the vectors that the model's own users get.
    renderer = Renderer.from_artifact(base)
    texts = ["Red Tea", "a river in the city " * 12]
    found = TorchEngine.load(base, device="cpu").encode(
        renderer.tokenize([renderer.query(texts[0]), *map(renderer.document, texts)])
    )
    peer = SentenceTransformer(str(path), device="cpu")
    expected = torch.from_numpy(peer.encode([query + texts[0], *(document + text for text in texts)]))
    torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-4, atol=1e-5)

    recipe["model"] |= {"name": name, "query_max_length": 64, "document_max_length": 64}
    recipe["train"] |= {"steps": 2, "save_every": 2}
    artifact = train(recipe).artifact
    assert (artifact.pooling, artifact.normalize, artifact.prompts) == (pooling, normalize, base.prompts)
    assert artifact.is_decoder is not both
    figures = artifact.teva["parity"]
    assert set(figures) == {"teva-torch", "sentence-transformers"}
    assert all(figure["max_difference"] < 1e-4 for figure in figures.values()), figures
    assert all(figure["min_cosine"] > 1 - 1e-6 for figure in figures.values()), figures
    assert artifact.teva["base"]["revision"] == "0" * 40
    last = renderer.tokenize(["red"])[0][-1]
    assert [ids.count(last) for ids in Renderer.from_artifact(artifact).tokenize(["red", "red " * 90])] == [1, 1]
