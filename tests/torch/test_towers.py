"""Models with two towers: vectors of transformers' own methods, their gradient, a run from end to end, merging."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from tests.torch import backbones, tower_models, vision_models

import torch
from teva_data import tower_reader
from teva_data.artifact import Artifact
from teva_data.dataset import Dataset
from teva_data.errors import ArtifactError, DataError, RecipeError
from teva_data.feed import Feed
from teva_data.inputs import PieceTokens, key_of, media_of
from teva_data.layout import write_layout
from teva_data.parity import ParityError
from teva_data.plan import BatchPlan
from teva_data.rendering import Renderer
from teva_infer import Encoder, encode, verify
from teva_torch.caching import BatchGradient, Passes
from teva_torch.lora import add_lora
from teva_torch.losses import InfoNCE, Targets
from teva_torch.model import Retriever
from teva_torch.publishing import export_model
from teva_torch.recipe import LoraSection, read_recipe
from teva_torch.training import train
from teva_torch.vision import freeze_text, freeze_tower


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """Documents of text, of pictures, and of both."""
    return vision_models.make_data(tmp_path_factory.mktemp("mixed") / "data")


@pytest.fixture(scope="module")
def data(mixed, tmp_path_factory):
    """The same without those of both."""
    directory = tmp_path_factory.mktemp("towers") / "data"
    directory.mkdir()
    (directory / "images").symlink_to(mixed / "images")
    kept = [row for row in _rows(mixed / "corpus.jsonl") if not isinstance(row.get("text"), list)]
    ids = {row["docid"] for row in kept}
    queries = [
        {**row, "negative_document_ids": [one for one in row["negative_document_ids"] if one in ids]}
        for row in _rows(mixed / "train.jsonl")
        if row["positive_document_ids"][0] in ids
    ]
    for name, rows in (("corpus", kept), ("train", queries)):
        (directory / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return directory


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    return {name: tower_models.make(root / name, name) for name in tower_models.NAMES}


def _rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def _documents(renderer, data):
    documents = list(Dataset.open(data).corpus)
    return documents, renderer.tokenize(
        [renderer.document(one.document_text, one.title, None, one.pieces) for one in documents]
    )


@pytest.mark.parametrize("name", tower_models.NAMES)
def test_vectors_are_those_of_the_models_own_methods(models, data, name):
    from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

    renderer = Renderer.from_artifact(Artifact.load(models[name]))
    documents, ids = _documents(renderer, data)
    model = Retriever.load(Artifact.load(models[name]), normalize=True).eval()
    peer = AutoModel.from_pretrained(models[name])
    tokenizer, processor = (
        each.from_pretrained(models[name], **options)
        for each, options in ((AutoTokenizer, {}), (AutoImageProcessor, {"backend": "pil"}))
    )
    fill = {"padding": "max_length"} if name == "Siglip" else {}
    with torch.no_grad():
        found, expected = model.vectors(ids), []
        for document in documents:
            if document.media:
                image = Image.open(document.media[0].path).convert("RGB")
                each = peer.get_image_features(**processor(images=image, return_tensors="pt"))
            else:
                each = peer.get_text_features(
                    **tokenizer(document.document_text, return_tensors="pt", return_token_type_ids=False, **fill)
                )
            expected.append(each.pooler_output[0])
    expected = torch.nn.functional.normalize(torch.stack(expected), dim=-1)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    assert found.shape[1] == model.dim == Artifact.load(models[name]).dim
    assert len({len(media_of(each)) for each in ids}) == 2
    rendered = [renderer.document(one.document_text, one.title, None, one.pieces) for one in documents]
    assert renderer.lengths(rendered) == [len(each) for each in ids]


@pytest.mark.parametrize("trained", ["full", "lora", "vision", "text"])
@pytest.mark.parametrize("name", tower_models.NAMES)
def test_gradients_with_caching_are_those_of_inputs_one_by_one(models, data, name, trained):
    settings = {
        "model": {"name": str(models[name]), "query_max_length": 16, "document_max_length": 16},
        "data": {"path": str(data), "negatives": 1}, "train": {"output": "-", "steps": 1, "batch_size": 8},
    }  # fmt: skip
    recipe = read_recipe(settings)
    renderer = Renderer.from_artifact(Artifact.load(models[name]), max_length=16)
    item = Feed(BatchPlan.from_recipe(recipe), renderer, recipe).batch(0)
    assert {len(media_of(ids)) for ids in (*item.query_ids, *item.document_ids)} == {0, 1}
    loss = InfoNCE(temperature=0.05)

    def fresh():
        model = Retriever.load(Artifact.load(models[name]), normalize=True)
        if trained == "lora":
            torch.manual_seed(1)
            model.backbone = add_lora(model.backbone, LoraSection(rank=2))
            for key, parameter in model.named_parameters():
                if "lora_B" in key:
                    torch.nn.init.normal_(parameter, std=0.1)
        freeze = {"vision": freeze_text, "text": freeze_tower}.get(trained)
        if freeze:
            freeze(model.backbone)
        return model.train()

    def gradient(model):
        found = {key: value.grad for key, value in model.named_parameters() if value.grad is not None}
        parts = {"vision_model": trained in ("full", "vision"), "text_model": trained != "vision"}
        for part, moves in parts.items():
            assert any(part in key and value.norm() > 0 for key, value in found.items()) is moves
        return torch.cat([found[key].flatten() for key in sorted(found)])

    plain = fresh()
    vectors = [torch.cat([plain.vectors([ids]) for ids in side]) for side in (item.query_ids, item.document_ids)]
    loss(*vectors, Targets.of(item.batch, "cpu")).backward()
    expected = gradient(plain)
    for passes in (Passes(20, cached=True, check="all"), Passes(20), Passes(10**6, cached=True)):
        model = fresh()
        BatchGradient(model, loss, passes).add(item)
        assert (gradient(model) - expected).norm() <= 1e-5 * expected.norm()


@pytest.mark.parametrize("name", tower_models.NAMES)
def test_a_run_from_end_to_end(models, data, tmp_path, name):
    settings = {
        "model": {"name": str(models[name]), "normalize": True, "query_max_length": 16, "document_max_length": 12},
        "data": {"path": str(data), "negatives": 1}, "loss": {"temperature": 0.05},
        "train": {"output": str(tmp_path / "run"), "steps": 3, "batch_size": 6, "learning_rate": 1e-3},
        "torch": {"device": "cpu", "gradient_cache": True, "chunk_tokens": 40,
                  **({"lora": {"rank": 2}} if name == "CLIP" else {})},
    }  # fmt: skip
    artifact = train(settings).artifact
    # The gate has compared texts with sentence-transformers; its pictures are resized by another library.
    assert artifact.teva["parity"]["sentence-transformers"]["min_cosine"] > 0.99999
    assert artifact.teva["parity"]["teva-torch, pictures"]["min_cosine"] > 0.99999
    assert artifact.pooling == "towers"
    assert artifact.max_length == (tower_models.POSITIONS if name == "Siglip" else 16)
    assert _moved(models[name], artifact.path) == (name != "CLIP")  # LoRA leaves the tower that sees
    found = encode(artifact.path, data, tmp_path / "vectors", device="cpu", shard_size=7, batch_tokens=30).matrix()
    model = Retriever.load(artifact).eval()
    documents, ids = _documents(Renderer.from_artifact(artifact), data)
    with torch.no_grad():
        np.testing.assert_allclose(found, torch.cat([model.vectors([one]) for one in ids]), atol=1e-6)
    from sentence_transformers import SentenceTransformer

    peer = SentenceTransformer(str(artifact.path), device="cpu", local_files_only=True)
    seen = [at for at, one in enumerate(documents) if one.media]
    theirs = peer.encode([Image.open(documents[at].media[0].path).convert("RGB") for at in seen])
    assert (theirs * found[seen]).sum(axis=1).min() > 0.999


def test_an_artifact_that_sees_something_else_is_refused(models, tmp_path, monkeypatch):
    """Its texts are as they were; what is shown to its tower is not."""
    save = tower_reader.TowerReader.save

    def other(self, directory):
        save(self, directory)
        file = directory / "preprocessor_config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "image_mean": [0.1, 0.9, 0.2]}))

    base = tower_models.make(tmp_path / "base", "CLIP")
    write_layout(base, pooling="towers", normalize=True, dim=24, max_length=16, prompts={}, teva={}, card="")
    monkeypatch.setattr(tower_reader.TowerReader, "save", other)
    with pytest.raises(ParityError, match="pictures"):
        export_model(base, tmp_path / "exported", device="cpu")
    assert not (tmp_path / "exported").exists()


def _moved(before, after):
    from safetensors.torch import load_file

    old, new = (load_file(path / "model.safetensors") for path in (before, after))
    return any(not torch.equal(old[key], new[key]) for key in old if key.startswith("vision_model"))


def test_several_pieces_are_refused_or_merged(models, mixed, tmp_path):
    artifact = Artifact.load(models["CLIP"])
    with pytest.raises(DataError, match=r"images/\d+\.png.*found '3 pieces'.*model\.merging: mean"):
        _documents(Renderer.from_artifact(artifact), mixed)
    renderer = Renderer.from_artifact(artifact, merge="mean", document_prompt="the ")
    documents, ids = _documents(renderer, mixed)
    model = Retriever.load(artifact, normalize=True).eval()
    at = next(place for place, one in enumerate(ids) if isinstance(one, PieceTokens))
    text, other = (piece for piece in documents[at].pieces if isinstance(piece, str))
    alone = [renderer.document(text), renderer.document("", "", None, documents[at].media), renderer.document(other)]
    with torch.no_grad():
        vectors = model.vectors(renderer.tokenize(alone))
        found = model.vectors(ids)
    torch.testing.assert_close(found[at], torch.nn.functional.normalize(vectors.mean(dim=0), dim=-1))
    assert len(key_of(ids[at])) == 3
    assert len(ids[at]) == sum(map(len, renderer.tokenize(alone)))
    first = Renderer.from_artifact(artifact, merge="first", document_prompt="the ")
    assert _documents(first, mixed)[1][at] == first.tokenize(alone[:1])[0]
    # A title stands before every text; of a picture alone it is a piece of its own.
    assert renderer.document("", "fire", None, documents[1].pieces).parts[0] == "the fire"
    # Trained so, the artifact says so, and encodes so.
    settings = {
        "model": {"name": str(models["CLIP"]), "normalize": True, "query_max_length": 16, "document_max_length": 16,
                  "merging": "mean"},
        "data": {"path": str(mixed), "negatives": 1},
        "train": {"output": str(tmp_path / "run"), "steps": 2, "batch_size": 9, "learning_rate": 1e-3},
        "torch": {"device": "cpu", "gradient_cache": True, "chunk_tokens": 40},
    }  # fmt: skip
    trained = train(settings).artifact
    assert trained.merging == "mean"
    encoder = Encoder.load(trained.path, device="cpu")
    with torch.no_grad():
        expected = Retriever.load(trained).eval().vectors(_documents(Renderer.from_artifact(trained), mixed)[1])
    np.testing.assert_allclose(encoder.encode_documents(documents, batch_tokens=30), expected, atol=1e-6)
    assert not np.allclose(expected[at], found[at])


def test_pieces_of_a_model_that_reads_one_sequence(mixed, tmp_path):
    artifact = Artifact.load(vision_models.make(tmp_path / "qwen", "Qwen2VL"))
    gradients, vectors = [], {}
    for merge in ("sequence", "mean", "first"):
        renderer = Renderer.from_artifact(artifact, merge=merge, max_length=80, document_prompt="the ")
        ids = _documents(renderer, mixed)[1]
        model = Retriever.load(artifact, pooling="last", normalize=True).eval()
        vectors[merge] = model.vectors(ids)
        gradients.append(sum(len(media_of(one)) for one in ids))
    assert gradients[0] == gradients[1] > gradients[2]
    differ = {merge: (vectors[merge] - vectors["sequence"]).norm(dim=1) > 1e-3 for merge in ("mean", "first")}
    several = torch.arange(len(ids)) % 3 == 2
    for each in differ.values():
        assert torch.equal(each, several)
    # Texts of a model that sees nothing too.
    text = Renderer.from_artifact(
        Artifact.load(backbones.make(tmp_path / "bert", "Bert")), merge="mean", document_prompt="the "
    )
    assert text.document("red fire", "tea", None, ("red", "fire")).parts == ("the tea red", "the tea fire")
    assert text.document("red", "", None, ()) == "the red"


@pytest.mark.parametrize("name", ["CLIP", "Qwen2VL"])
def test_verify_compares_pictures(tmp_path, name):
    towers = name in tower_models.NAMES
    base = (tower_models if towers else vision_models).make(tmp_path / "base", name)
    pooling, length, dim = ("towers", 16, 24) if towers else ("last", 80, 32)
    write_layout(base, pooling=pooling, normalize=True, dim=dim, max_length=length, prompts={}, teva={}, card="")
    artifact = export_model(base, tmp_path / "exported", device="cpu")
    runtimes = ["torch", "sentence-transformers"]
    report = verify(artifact.path, engines=runtimes, device="cpu", store=False)
    assert report.passed, report.table()
    both = {(runtime, kind) for runtime in runtimes for kind in ("", "pictures")}
    found = {(row.runtime, row.role) for row in report.rows}
    if towers:
        assert found == both
    else:  # its layout for pictures beside text is another
        assert found == both - {("sentence-transformers", "pictures")}
        assert report.absent == {"sentence-transformers, pictures": "it takes none of this model"}
    # A picture that the processor prepares otherwise is told, by who takes the file for what it is.
    (artifact.path / "checksums.json").unlink()
    file = artifact.path / "preprocessor_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "image_mean": [0.1, 0.5, 0.9]}))
    report = verify(artifact.path, engines=["torch"], device="cpu", store=False)
    assert [row.passed for row in report.rows] == [True, False]


def test_what_two_towers_do_not_have_is_refused(models, data, tmp_path):
    artifact = Artifact.load(models["CLIP"])
    with pytest.raises(RecipeError, match=r"model\.pooling.*found mean"):
        Retriever.load(artifact, pooling="mean")
    with pytest.raises(RecipeError, match=r"model\.bidirectional"):
        Retriever.load(artifact, bidirectional=True)
    with pytest.raises(RecipeError, match=r"sees all pictures at one size"):
        Renderer.from_artifact(artifact, max_pixels=100)
    with pytest.raises(RecipeError, match="freeze_text"):
        freeze_text(Retriever.load(Artifact.load(backbones.make(tmp_path / "bert", "Bert")), pooling="cls").backbone)
    other = tower_models.make(tmp_path / "other", "Siglip")
    file = other / "preprocessor_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "size": {"height": 8, "width": 8}}))
    with pytest.raises(ArtifactError, match=r"3 x 8 x 8; expected 3 x 16 x 16"):
        _ = _documents(Renderer.from_artifact(Artifact.load(other)), data)[1][1].pictures
    file.unlink()
    with pytest.raises(ArtifactError, match=r"no preprocessor_config\.json"):
        Renderer.from_artifact(Artifact.load(other))
