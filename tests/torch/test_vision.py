"""Pictures and texts in one batch: what a vision-language backbone is given, its gradient, a run from end to end."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from PIL import Image
from tests.torch import vision_models

import torch
from teva_data.artifact import Artifact
from teva_data.dataset import Dataset
from teva_data.errors import DataError, RecipeError
from teva_data.feed import Feed
from teva_data.inputs import Rendered, Tokens, key_of, load_media, media_of
from teva_data.metrics import read_metrics
from teva_data.pieces import Media
from teva_data.plan import BatchPlan
from teva_data.rendering import Renderer
from teva_data.stats import statistics
from teva_torch.caching import BatchGradient, Passes
from teva_torch.lora import add_lora
from teva_torch.losses import InfoNCE, Targets
from teva_torch.model import Retriever
from teva_torch.recipe import LoraSection, read_recipe
from teva_torch.training import train
from teva_torch.vision import tower_name


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return vision_models.make_data(tmp_path_factory.mktemp("pictures") / "data")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("vision")
    return {name: vision_models.make(root / name, name) for name in vision_models.ARCHITECTURES}


def _inputs(model, data, max_length=80, **limits):
    renderer = Renderer.from_artifact(Artifact.load(model), max_length=max_length, **limits)
    documents = list(Dataset.open(data).corpus)
    rendered = [renderer.document(one.document_text, one.title, None, one.pieces) for one in documents]
    return renderer, documents, renderer.tokenize(rendered)


@pytest.mark.parametrize("name", vision_models.ARCHITECTURES)
def test_a_mixed_batch_has_the_vectors_of_its_inputs_one_by_one(models, data, name):
    _, _, ids = _inputs(models[name], data)
    model = Retriever.load(Artifact.load(models[name]), pooling="last", normalize=True).eval()
    with torch.no_grad():
        batch = model.vectors(ids[:9])
        alone = torch.cat([model.vectors([one]) for one in ids[:9]])
        torch.testing.assert_close(batch, alone, rtol=0, atol=1e-6)
        # The picture counts: another one in its place gives another vector.
        first, other = ids[1], ids[4]
        swapped = Tokens(first, other.media, other.reader) if len(first) == len(other) else other
        assert (model.vectors([swapped]) - alone[1]).abs().max() > 1e-3
    with torch.no_grad():
        packed = Retriever.load(Artifact.load(models[name]), pooling="last", normalize=True)
        assert not packed.pack(torch.bfloat16)


@pytest.mark.parametrize("name", ["Qwen2VL", "Qwen2_5_VL"])
def test_ids_and_patches_are_those_of_the_models_own_processor(models, data, name):
    """transformers' processor, whose image processor is the one that needs torchvision."""
    pytest.importorskip("torchvision")
    from transformers import AutoTokenizer, Qwen2VLImageProcessor, Qwen2VLProcessor, Qwen2VLVideoProcessor

    settings = json.loads((models[name] / "preprocessor_config.json").read_text())
    settings.pop("image_processor_type")
    processor = Qwen2VLProcessor(
        Qwen2VLImageProcessor(**settings), AutoTokenizer.from_pretrained(models[name]), Qwen2VLVideoProcessor()
    )
    _, documents, ids = _inputs(models[name], data)
    place = "<|vision_start|><|image_pad|><|vision_end|>"
    for document, found in zip(documents, ids, strict=True):
        written = "".join(
            place if isinstance(piece, Media) else piece for piece in document.pieces or (document.document_text,)
        )
        images = [Image.open(one.path).convert("RGB") for one in document.media]
        expected = processor(text=[written], images=images or None, return_tensors="pt")
        assert expected["input_ids"][0].tolist() == list(found)
        if images:
            assert expected["image_grid_thw"].tolist() == [list(one.grid) for one in found.pictures]
            theirs = expected["pixel_values"].numpy()
            ours = np.concatenate([one.patches for one in found.pictures])
            # Two libraries' bicubic resizing: of 256 shades, at most two apart, and seldom.
            assert np.abs(theirs - ours).max() <= 2.5 / 255 / 0.25
            assert np.abs(theirs - ours).mean() < 0.3 / 255 / 0.25


def test_tokens_are_counted_before_a_picture_is_decoded(models, tmp_path):
    renderer = Renderer.from_artifact(Artifact.load(models["Qwen2VL"]), max_length=4096)
    random = np.random.default_rng(0)
    media = []
    for number, (height, width) in enumerate([(1, 1), (5, 300), (64, 64), *random.integers(2, 200, (20, 2)).tolist()]):
        if max(height, width) / min(height, width) >= 200:
            continue
        image = Image.fromarray(random.integers(0, 255, (height, width, 3), dtype=np.uint8))
        exif = image.getexif()
        exif[0x0112] = int(random.integers(1, 9))
        image.save(tmp_path / f"{number}.jpg", exif=exif)
        media.append(Media("image", str(tmp_path / f"{number}.jpg")))
    texts = [renderer.document("", "", None, (one,)) for one in media]
    found = renderer.tokenize(texts)
    assert renderer.lengths(texts) == [len(ids) for ids in found]
    # The model's own rounding lets a strip of 5 x 300 pixels be more than the budget: a side has one token at least.
    grids = [one.pictures[0].grid for one in found]
    pixels = [np.prod(grid) * vision_models.PATCH**2 for grid in grids if max(grid) <= 8 * min(grid[1:])]
    assert len(pixels) > 10
    assert max(pixels) <= 1024
    assert min(pixels) >= 64
    smaller = Renderer.from_artifact(Artifact.load(models["Qwen2VL"]), max_length=4096, max_pixels=256)
    assert max(smaller.lengths(texts)) < max(renderer.lengths(texts))


def test_pictures_wait_as_bytes_of_one_frame_and_each_is_decoded_once(models, data):
    renderer, documents, ids = _inputs(models["Qwen2_5_VL"], data)
    load_media(ids, workers=3)
    reader, decoded = renderer.pictures, {}
    for document, found in zip(documents, ids, strict=True):
        for media, picture in zip(document.media, found.pictures if document.media else (), strict=True):
            image = Image.open(media.path).convert("RGB")
            expected = reader.processor(images=[image], return_tensors="np")
            np.testing.assert_allclose(picture.patches, expected["pixel_values"], rtol=1e-5, atol=1e-6)
            assert picture.pixels.nbytes * 8 == expected["pixel_values"].nbytes
            # Three documents show each picture: it is in memory once.
            assert decoded.setdefault(media, picture) is picture
    assert len(decoded) == 8


def test_text_is_cut_and_pictures_are_not(models, data):
    renderer, documents, whole = _inputs(models["Qwen2_5_VL"], data)
    at = max(range(2, len(whole), 3), key=lambda number: len(whole[number]))
    length = len(whole[at])
    text = renderer.document(documents[at].document_text, "", None, documents[at].pieces)
    picture = [one for one in whole[at] if one in (4, 5, 6)]
    for limit in range(len(picture) + 1, length):
        (cut,) = renderer.tokenize([text], limit)
        assert len(cut) == limit
        assert [one for one in cut if one in (4, 5, 6)] == picture
        assert cut[-1] == 2  # the tokenizer's own end
        assert key_of(cut)[limit:] == key_of(whole[at])[length:]
    with pytest.raises(DataError, match=r"more tokens than an input may have.*max_pixels"):
        renderer.tokenize([text], len(picture))
    # What a record says is broken up before; a text that was made elsewhere is refused.
    with pytest.raises(DataError, match="which stands for a picture"):
        renderer.tokenize([Rendered(f"<|image_pad|>{text}", text.media)])


@pytest.mark.parametrize("adapter", ["full", "lora", "lora with the tower"])
@pytest.mark.parametrize("name", ["Qwen2VL", "Qwen2_5_VL"])
def test_gradients_with_caching_are_those_of_inputs_one_by_one(models, data, name, adapter):
    settings = {
        "model": {"name": str(models[name]), "pooling": "last", "query_max_length": 80, "document_max_length": 80},
        "data": {"path": str(data), "negatives": 2}, "train": {"output": "-", "steps": 1, "batch_size": 9},
    }  # fmt: skip
    recipe = read_recipe(settings)
    renderer = Renderer.from_artifact(Artifact.load(models[name]), max_length=80)
    item = Feed(BatchPlan.from_recipe(recipe), renderer, recipe).batch(0)
    assert sum(len(media_of(ids)) for ids in item.query_ids) > 1
    assert {len(media_of(ids)) for ids in item.document_ids} == {0, 1}
    loss = InfoNCE(temperature=0.05)

    def fresh():
        model = Retriever.load(Artifact.load(models[name]), pooling="last", normalize=True)
        if adapter != "full":
            torch.manual_seed(1)
            model.backbone = add_lora(model.backbone, LoraSection(rank=2, alpha=4, vision="tower" in adapter))
            for key, parameter in model.named_parameters():
                if "lora_B" in key:
                    torch.nn.init.normal_(parameter, std=0.1)
        return model.train()

    def gradient(model):
        found = {key: value.grad for key, value in model.named_parameters() if value.grad is not None}
        assert any("visual" in key and value.norm() > 0 for key, value in found.items()) is (adapter != "lora")
        return torch.cat([found[key].flatten() for key in sorted(found)])

    plain = fresh()
    vectors = [torch.cat([plain.vectors([ids]) for ids in side]) for side in (item.query_ids, item.document_ids)]
    loss(*vectors, Targets.of(item.batch, "cpu")).backward()
    expected = gradient(plain)
    for passes in (Passes(64, cached=True, check="all"), Passes(64), Passes(10**6, cached=True)):
        model = fresh()
        BatchGradient(model, loss, passes).add(item)
        assert (gradient(model) - expected).norm() <= 1e-5 * expected.norm()


def test_statistics_count_pictures_as_training_does(models, tmp_path):
    Image.new("RGB", (24, 24)).save(tmp_path / "page.png")
    rows = {
        "corpus": [{"docid": "d0", "image": "page.png"}, {"docid": "d1", "text": "red river"}],
        "train": [{"query_id": "q0", "query_text": "", "query_image": "page.png", "positive_document_ids": ["d1"]}],
    }
    for name, each in rows.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in each))
    corpus, train_split = statistics(tmp_path, model=models["Qwen2VL"]).parts
    # 6 x 6 patches, of which 2 x 2 are a token, two marks and the end; two words and the end.
    assert (corpus.spreads["tokens"][1], corpus.spreads["tokens"][-1]) == (3, 12)
    assert train_split.spreads["tokens"][0] == 12


@pytest.mark.parametrize("name", vision_models.ARCHITECTURES)
@pytest.mark.parametrize("frozen", ["lora", "freeze_vision", ""])
def test_a_frozen_tower_sees_a_batch_once(models, data, name, frozen):
    chosen = {"lora": {"lora": {"rank": 2}}, "freeze_vision": {"freeze_vision": True}, "": {}}[frozen]
    recipe = read_recipe({
        "model": {"name": str(models[name]), "pooling": "last", "query_max_length": 80, "document_max_length": 80},
        "data": {"path": str(data), "negatives": 2}, "train": {"output": "-", "steps": 1, "batch_size": 9},
        "torch": chosen,
    })  # fmt: skip
    renderer = Renderer.from_artifact(Artifact.load(models[name]), max_length=80)
    item = Feed(BatchPlan.from_recipe(recipe), renderer, recipe).batch(0)
    found = []
    for passes in (Passes(24), Passes(24, cached=True, check="all"), Passes(24, cached=True, keep_vision=False)):
        torch.manual_seed(1)
        model = Retriever.for_training(Artifact.load(models[name]), recipe, torch.device("cpu")).train()
        seen = []
        tower = model.backbone.get_submodule(tower_name(model.backbone))
        tower.register_forward_hook(lambda module, inputs, output, seen=seen: seen.append(len(inputs[0])))
        BatchGradient(model, InfoNCE(temperature=0.05), passes).add(item)
        grads = [one.grad.flatten() for one in model.parameters() if one.grad is not None]
        found.append((seen, torch.cat(grads)))
    (plain, expected), (kept, again), (twice, without) = found
    assert len(kept) == len(plain) * (1 if frozen else 2)
    assert sum(twice) == 2 * sum(plain)
    for gradient in (again, without):
        assert (gradient - expected).norm() <= 1e-5 * expected.norm()


def test_a_run_from_end_to_end(models, data, tmp_path):
    settings = {
        "model": {"name": str(models["Qwen2_5_VL"]), "pooling": "last", "normalize": True, "query_max_length": 48,
                  "document_max_length": 64, "max_pixels": 256},
        "data": {"path": str(data), "negatives": 2},
        "loss": {"temperature": 0.05},
        "train": {"output": str(tmp_path / "run"), "steps": 4, "batch_size": 6, "learning_rate": 1e-3, "save_every": 2},
        "torch": {"device": "cpu", "lora": {"rank": 2}, "gradient_cache": True, "chunk_tokens": 64},
    }  # fmt: skip
    artifact = train(settings).artifact
    # What serves it reads pictures at the size that it was trained with.
    assert json.loads((artifact.path / "preprocessor_config.json").read_text())["size"]["longest_edge"] == 256
    served = Renderer.from_artifact(artifact)
    pictures = [one.pictures[0] for one in _inputs(artifact.path, data, 64)[2] if media_of(one)]
    assert max(np.prod(one.grid) * vision_models.PATCH**2 for one in pictures) <= 256
    assert served.max_length == 64
    # A corpus of pictures and texts is encoded by the command that encodes texts, to the vectors of one by one.
    encode = pytest.importorskip("teva_infer").encode

    found = encode(artifact.path, data, tmp_path / "vectors", device="cpu", shard_size=7, batch_tokens=100)
    model = Retriever.load(artifact).eval()
    with torch.no_grad():
        alone = torch.cat([model.vectors([ids]) for ids in _inputs(artifact.path, data, 64)[2]])
    np.testing.assert_allclose(found.matrix(), alone, atol=1e-6)
    with pytest.raises(RecipeError, match=r"min_pixels.*max_pixels"):
        train(settings, {"model.min_pixels": 512, "train.output": str(tmp_path / "other")})


@pytest.fixture(scope="module")
def kinds(data, tmp_path_factory):
    """The data in three: texts alone, pictures alone as documents, and records of both."""
    root = tmp_path_factory.mktemp("kinds")
    for kind, name in enumerate(("text", "image", "both")):
        shutil.copytree(data / "images", root / name / "images")
        for file in ("corpus", "train"):
            rows = [json.loads(line) for line in (data / f"{file}.jsonl").read_text().splitlines()][kind::3]
            for at, row in enumerate(rows):
                if file == "train":
                    row["negative_document_ids"] = [
                        rows[(at + step) % 12]["positive_document_ids"][0] for step in (1, 5)
                    ]
            (root / name / f"{file}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


@pytest.mark.parametrize("batches", ["mixed", "one_dataset", "one_modality"])
def test_texts_pictures_and_both_are_mixed_as_the_recipe_says(models, data, kinds, batches, tmp_path):
    weights = {"text": 2, "image": 1, "both": 1}
    recipe = read_recipe({
        "model": {"name": str(models["Qwen2_5_VL"]), "pooling": "last", "normalize": True, "query_max_length": 48,
                  "document_max_length": 64, "max_pixels": 256},
        "data": {"datasets": [{"path": str(kinds / name), "weight": weight} for name, weight in weights.items()],
                 "negatives": 2, "mixing": "weighted", "batches": batches},
        "train": {"output": str(tmp_path / "run"), "steps": 6, "batch_size": 4, "log_every": 1},
        "torch": {"device": "cpu", "lora": {"rank": 2}, "gradient_cache": True, "chunk_tokens": 64},
    })  # fmt: skip
    plan = BatchPlan.from_recipe(recipe)
    assert plan.mixture.shares == pytest.approx([0.5, 0.25, 0.25])
    held = [set(plan.batch(step).dataset.tolist()) for step in range(64)]
    assert all(len(one) == 1 or (one == {1, 2} and batches == "one_modality") for one in held) is (batches != "mixed")
    assert set().union(*held) == {0, 1, 2}
    counts = np.bincount(np.concatenate([plan.batch(step).dataset for step in range(64)])) / 256
    # Batches of one modality are shared out by modality, and within it by query.
    np.testing.assert_allclose(counts, [0.5, 0.25, 0.25], atol=1 / 32 if batches == "one_modality" else 1 / 64)
    result = train(recipe)
    losses = [row["loss"] for row in read_metrics(result.output / "metrics.jsonl")]
    assert len(losses) == 6
    assert np.isfinite(losses).all()
    # One batch of them has the gradient of its inputs one by one: the matrix of benchmarks/vision_gradients.py.
    assert json.loads((result.artifact.path / "teva.json").read_text())["data"]["datasets"][1]["split"] == "train"


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "no such file"), (b"", "no bytes there"), (b"\x89PNG\r\n\x1a\nrest", "damaged")],
)
def test_a_picture_that_cannot_be_read_is_named(models, data, tmp_path, content, words):
    (tmp_path / "images").mkdir()
    if content is not None:
        (tmp_path / "images/bad.png").write_bytes(content)
    (tmp_path / "corpus.jsonl").write_text('{"docid": "d", "image": "images/bad.png"}\n')
    (tmp_path / "train.jsonl").write_text('{"query_id": "q", "query_text": "tea", "positive_document_ids": ["d"]}\n')
    with pytest.raises(DataError, match=words) as caught:
        load_media(_inputs(models["Qwen2VL"], tmp_path)[2])
    assert "bad.png" in str(caught.value)
