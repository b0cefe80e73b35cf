"""The whole way on real layers: teva-infer with PyTorch against sentence-transformers on the same directory."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from teva_data.dataset import Dataset
from teva_data.errors import ArtifactError
from teva_infer import Encoder, encode, search

# Lengths from nothing but special tokens to far beyond the limit of 48.
TEXTS = [
    "red",
    "",
    "Tea & bread, with SALT?",
    "the stone table in the garden",
    *("river city " * n for n in (3, 20, 90)),
]


def edit(path, **values):
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.fixture
def model(tiny_model, tmp_path):
    """A copy that a test may change."""
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


def largest_difference(model, **options):
    theirs = SentenceTransformer(str(model), device="cpu", local_files_only=True)
    mine = Encoder.load(model, device="cpu", **options)
    differences = [
        np.abs(theirs.encode_query(TEXTS) - mine.encode_queries(TEXTS, batch_tokens=200)).max(),
        np.abs(theirs.encode_document(TEXTS) - mine.encode_documents(TEXTS, batch_tokens=200)).max(),
    ]
    return float(max(differences))


@pytest.mark.parametrize("pooling", ["cls", "mean", "last"])
@pytest.mark.parametrize("normalize", [True, False])
def test_equal_to_sentence_transformers(model, pooling, normalize):
    names = {"cls": "cls_token", "mean": "mean_tokens", "last": "lasttoken"}
    edit(model / "1_Pooling/config.json", **{f"pooling_mode_{name}": key == pooling for key, name in names.items()})
    modules = json.loads((model / "modules.json").read_text())
    (model / "modules.json").write_text(json.dumps(modules if normalize else modules[:2]))
    assert largest_difference(model) <= 1e-6
    lengths = np.linalg.norm(Encoder.load(model, device="cpu").encode_queries(TEXTS), axis=1)
    assert np.allclose(lengths, 1, atol=1e-5) == normalize


def test_prompts_of_the_directory_are_applied(model):
    plain = Encoder.load(model, device="cpu")
    edit(model / "config_sentence_transformers.json", prompts={"query": "what is ", "document": "paper: "})
    assert largest_difference(model) <= 1e-6
    prompted = Encoder.load(model, device="cpu")
    for one, other, text in (
        (prompted.encode_queries(["tea"]), plain.encode_queries(["tea"]), "what is tea"),
        (prompted.encode_documents(["tea"]), plain.encode_documents(["tea"]), "paper: tea"),
    ):
        assert np.abs(one - other).max() > 1e-3
        np.testing.assert_allclose(one, plain.encode_texts([text]), atol=1e-6)
    none = Encoder.load(model, device="cpu", query_prompt="", document_prompt="")
    np.testing.assert_allclose(none.encode_queries(["tea"]), plain.encode_queries(["tea"]), atol=1e-6)


def test_a_vector_does_not_depend_on_its_batch(tiny_model):
    encoder = Encoder.load(tiny_model, device="cpu")
    alone = np.concatenate([encoder.encode_queries([text]) for text in TEXTS])
    np.testing.assert_allclose(encoder.encode_queries(TEXTS), alone, atol=1e-6)


def test_encode_and_search_on_disk(tiny_model, tiny_data, tmp_path):
    corpus = encode(tiny_model, tiny_data, tmp_path / "c", device="cpu", shard_size=16)
    queries = encode(tiny_model, tiny_data, tmp_path / "q", split="test", device="cpu")
    encoder = Encoder.load(tiny_model, device="cpu")
    documents = Dataset.open(tiny_data).corpus.documents(0, 60)
    theirs = SentenceTransformer(str(tiny_model), device="cpu", local_files_only=True)
    texts = [f"{document.title} {document.document_text}".strip() for document in documents]
    np.testing.assert_allclose(corpus.matrix(), theirs.encode_document(texts), atol=1e-6)
    np.testing.assert_allclose(corpus.matrix(), encoder.encode_documents(documents), atol=1e-6)
    scores = queries.matrix().astype(np.float64) @ corpus.matrix().astype(np.float64).T
    for row, (query_id, hits) in enumerate(search(queries, corpus, depth=10).items()):
        assert query_id == f"q{40 + row}"
        best = np.argsort(-scores[row], kind="stable")[:10]
        assert [docid for docid, _ in hits] == [f"d{n}" for n in best]
    again = encode(tiny_model, tiny_data, tmp_path / "c2", device="cpu", shard_size=16)
    for path in (tmp_path / "c").glob("*.arrow"):
        assert path.read_bytes() == (again.directory / path.name).read_bytes()


def test_reduced_precision_is_near(tiny_model):
    exact = Encoder.load(tiny_model, device="cpu").encode_queries(TEXTS)
    found = Encoder.load(tiny_model, device="cpu", dtype="bfloat16").encode_queries(TEXTS)
    assert found.dtype == np.float32
    assert 1e-5 < np.abs(found - exact).max() < 0.05


def test_a_bare_backbone_and_a_model_without_tokenizer_are_refused(bare_model, model):
    with pytest.raises(ArtifactError, match="how to pool"):
        Encoder.load(bare_model)
    (model / "tokenizer.json").unlink()
    with pytest.raises(ArtifactError, match="no tokenizer"):
        Encoder.load(model)
