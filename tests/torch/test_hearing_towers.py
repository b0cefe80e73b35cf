"""Towers that hear: CLAP, and a third one beside two; clips by the mean of their frames' vectors."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import soundfile
from benchmarks import gradients, small_towers, vision_gradients
from PIL import Image
from tests.conftest import WORDS
from tests.torch import omni_models, tower_models

import torch
from teva_data.artifact import Artifact
from teva_data.errors import DataError, RecipeError
from teva_data.feed import Feed
from teva_data.modalities import video
from teva_data.pieces import Media
from teva_data.plan import BatchPlan
from teva_data.prompting import training_renderer
from teva_data.rendering import Renderer
from teva_torch.caching import BatchGradient, Passes
from teva_torch.losses import InfoNCE
from teva_torch.model import Retriever
from teva_torch.recipe import read_recipe
from teva_torch.training import train
from teva_torch.vision import freeze_tower

pytestmark = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="makes its clips with ffmpeg")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A CLAP, a model of three towers, and data that both have something of."""
    root = tmp_path_factory.mktemp("hearing")
    small_towers.make_hearing(root / "clap", WORDS, seconds=1, width=16, mels=16)
    small_towers.add_hearing(tower_models.make(root / "three", "VisionTextDualEncoder"), seconds=1, width=16, mels=16)
    for name, kinds in (("clap", ("audio",)), ("three", ("audio", "image", "video"))):
        media = omni_models.make_media(root / f"{name}-data/media", 4)
        documents, queries = [], []
        for number in range(12):
            kind = kinds[number % len(kinds)]
            documents.append({"docid": f"d{number}", kind: media[kind][number // 3]})
            asked = {"query_text": f"{WORDS[number]} {WORDS[number + 1]}"}
            if number % 4 == 1:
                asked = {"query_text": "", "query_audio": media["audio"][(number // 3 + 1) % 4]}
            queries.append({"query_id": f"q{number}", **asked, "positive_document_ids": [f"d{number}"]})
        for file, rows in (("corpus", documents), ("train", queries)):
            (root / f"{name}-data/{file}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


def _recipe(root, name, **torch_keys):
    return read_recipe({
        "model": {"name": str(root / name), "normalize": True, "query_max_length": 20, "document_max_length": 20,
                  **({} if name == "clap" else {"video_frames": 3})},
        "data": {"path": str(root / f"{name}-data"), "negatives": 0},
        "train": {"output": str(root / f"{name}-run"), "steps": 2, "batch_size": 6, "learning_rate": 1e-3},
        "torch": {"device": "cpu", **torch_keys},
    })  # fmt: skip


def test_a_sound_has_the_vector_of_transformers_own_clap(root):
    from transformers import ClapFeatureExtractor, ClapModel

    artifact = Artifact.load(root / "clap")
    renderer, model = Renderer.from_artifact(artifact), Retriever.load(artifact, normalize=True).eval()
    media = [Media("audio", str(root / f"clap-data/media/{number}.wav")) for number in (0, 1)]
    ids = renderer.tokenize([renderer.document("", pieces=[one]) for one in media] + ["red river"])
    extractor, theirs = ClapFeatureExtractor.from_pretrained(root / "clap"), ClapModel.from_pretrained(root / "clap")
    samples, rate = soundfile.read(media[0].path, dtype="float32")
    assert rate == 16000
    features = extractor(samples, sampling_rate=16000, return_tensors="pt")["input_features"].float()
    with torch.no_grad():
        batch, alone = model.vectors(ids), torch.cat([model.vectors([one]) for one in ids])
        expected = theirs.eval().get_audio_features(features).pooler_output
    torch.testing.assert_close(batch, alone, rtol=0, atol=1e-6)
    torch.testing.assert_close(batch[:1], torch.nn.functional.normalize(expected, dim=-1), rtol=0, atol=1e-5)
    assert (batch[0] - batch[1]).abs().max() > 1e-3
    with pytest.raises(DataError, match="takes recordings and clips, and no image"):
        renderer.tokenize([renderer.document("", pieces=[Media("image", "x.png")])])


def test_a_clip_is_the_mean_of_its_frames(root, tmp_path):
    artifact = Artifact.load(root / "three")
    renderer = Renderer.from_artifact(artifact, media={"video_frames": 3})
    model = Retriever.load(artifact, normalize=True).eval()
    clip = Media("video", str(root / "three-data/media/2.mp4"))
    times = video.middles(video.head(clip).seconds, 3)
    pictures = []
    for number, frame in enumerate(video.frames(clip, times.tolist())):
        Image.fromarray(frame).save(tmp_path / f"{number}.png")
        pictures.append(Media("image", str(tmp_path / f"{number}.png")))
    ids = renderer.tokenize([renderer.document("", pieces=[one]) for one in (clip, *pictures)])
    assert [len(one) for one in ids] == [3 * 4, 4, 4, 4]
    with torch.no_grad():
        found = model.vectors(ids)
    mean = torch.nn.functional.normalize(found[1:].mean(dim=0), dim=0)
    torch.testing.assert_close(found[0], mean, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["clap", "three"])
def test_gradient_caching_gives_the_gradient_without_it(root, name):
    recipe = _recipe(root, name)
    artifact = Artifact.load(root / name)
    renderer = Renderer.from_artifact(artifact, media={} if name == "clap" else {"video_frames": 3})
    item = Feed(BatchPlan.from_recipe(recipe), renderer, recipe).batch(0)
    found = []
    for passes in (Passes(10**6), Passes(40, cached=True, check="all")):
        torch.manual_seed(1)
        model = Retriever.for_training(artifact, recipe, torch.device("cpu")).train()
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0  # it draws by the pass
        BatchGradient(model, InfoNCE(temperature=0.05), passes).add(item)
        grads = {key: one.grad.flatten() for key, one in model.named_parameters() if one.grad is not None}
        assert any("audio_model" in key for key in grads)
        assert any("vision_model" in key for key in grads) is (name == "three")
        found.append(torch.cat([*grads.values()]))
        means = [one for key, one in model.named_buffers() if key.endswith("running_mean")]
        assert [float(one.mean()) for one in means] == [-50.0]  # no pass changes it
    assert (found[0] - found[1]).norm() <= 1e-5 * found[0].norm()


@pytest.mark.parametrize("lora", [{"audio": True}, {"vision": True}, {}])
def test_an_adapter_of_one_tower_is_trained_under_gradient_caching(root, lora):
    """A pass through towers without one has no way back."""
    recipe = _recipe(root, "three", lora={"rank": 2, **lora})
    artifact, renderer = Artifact.load(root / "three"), Renderer.from_artifact(Artifact.load(root / "three"))
    item = Feed(BatchPlan.from_recipe(recipe), renderer, recipe).batch(0)
    found = []
    for passes in (Passes(10**6), Passes(4, cached=True, check="all")):
        torch.manual_seed(0)
        model = Retriever.for_training(artifact, recipe, torch.device("cpu")).train()
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1)
        BatchGradient(model, InfoNCE(temperature=0.05), passes).add(item)
        found.append({name: one.grad for name, one in model.named_parameters() if one.grad is not None})
    assert any(value.any() for value in found[0].values())
    for name, value in found[0].items():
        assert (found[1][name] - value).norm() <= 1e-4 * value.norm() + 1e-7, name


@pytest.mark.parametrize(
    ("name", "key"),
    [("clap", key) for key in ("video_rate", "video_frames", "video_pixels", "video_sound")]
    + [("three", key) for key in ("video_pixels", "video_sound")]
    + [("two", key) for key in ("video_pixels", "video_sound", "audio_seconds")],
)
def test_a_limit_that_means_nothing_to_the_model_is_refused(root, name, key):
    if name == "two" and not (root / "two").exists():
        tower_models.make(root / "two", "VisionTextDualEncoder")
    value = {"video_sound": True, "audio_seconds": 0.5, "video_rate": 1.0}.get(key, 100)
    recipe = _recipe(root, name)
    recipe = recipe.model_copy(update={"model": recipe.model.model_copy(update={key: value})})
    with pytest.raises(RecipeError, match=rf"model\.{key}: \S*{name} has no use for it.*Leave it out"):
        training_renderer(recipe, Artifact.load(root / name))


def test_limits_that_mean_something_are_taken_and_a_cap_is_said(root, caplog):
    artifact = Artifact.load(root / "three")
    taken = {"video_rate": 1.0, "video_frames": 2, "audio_seconds": 0.5}
    reader = Renderer.from_artifact(artifact, media=taken).pictures
    assert (reader.hears.seconds, reader.sees.limits.video_frames) == (0.5, 2)
    assert not caplog.records
    assert Renderer.from_artifact(artifact, media={"audio_seconds": 5.0}).pictures.hears.seconds == 1
    assert f"model.audio_seconds: found 5; {root / 'three'} hears 1 s of a sound at most" in caplog.text


def test_a_tower_that_is_not_there_cannot_be_frozen(root):
    backbone = Retriever.load(Artifact.load(root / "clap"), normalize=True).backbone
    with pytest.raises(RecipeError, match=r"torch\.freeze_vision: this model sees no pictures"):
        freeze_tower(backbone)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["fsdp2", "zero3"])
def test_gradients_of_three_towers_in_parts(strategy, tmp_path):
    work = vision_gradients.make(tmp_path / "work")
    found = vision_gradients.by_processes(2, work, tmp_path / "out.safetensors", strategy, kind="three")
    for case in vision_gradients.three_cases():
        expected, loss = vision_gradients.plainly(case.model, case.trained, work)
        assert gradients.relative_difference(found[case.name][0], expected)[0] < 1e-5, case.name
        assert found[case.name][1] == pytest.approx(loss, rel=1e-5)


@pytest.mark.parametrize("name", ["clap", "three"])
def test_a_run_from_end_to_end(root, name):
    encode = pytest.importorskip("teva_infer").encode

    artifact = train(_recipe(root, name, lora={"rank": 2} if name == "clap" else None)).artifact
    kinds = Renderer.from_artifact(artifact).pictures.kinds
    assert kinds == (("audio", "video") if name == "clap" else ("image", "video", "audio"))
    found = encode(artifact.path, root / f"{name}-data", root / f"{name}-vectors", device="cpu").matrix()
    asked = encode(artifact.path, root / f"{name}-data", root / f"{name}-asked", split="train", device="cpu").matrix()
    assert found.shape == asked.shape == (12, artifact.dim)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    half = encode(artifact.path, root / f"{name}-data", root / f"{name}-half", device="cpu", dtype="bfloat16").matrix()
    assert (half * found).sum(axis=1).min() > 0.99
