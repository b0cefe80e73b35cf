"""Qwen2.5-Omni: texts, pictures, clips and sounds in one batch, held against transformers' own processor and model."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from benchmarks import gradients, vision_gradients
from PIL import Image
from tests.torch import omni_models

import torch
from teva_data.artifact import Artifact
from teva_data.clips import Clip
from teva_data.dataset import Dataset
from teva_data.errors import DataError, TevaError
from teva_data.inputs import load_media, media_of
from teva_data.modalities import audio, video
from teva_data.omni import Marks
from teva_data.pieces import Media
from teva_data.rendering import Renderer
from teva_data.sounds import Sound
from teva_torch import omni
from teva_torch.model import Retriever
from teva_torch.training import train

HEARD = {"video_sound": True}
pytestmark = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="makes its clips with ffmpeg")


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    return vision_gradients.make(tmp_path_factory.mktemp("omni") / "work")


@pytest.fixture(scope="module")
def model(work):
    return work / vision_gradients.OMNI


def _inputs(model, data, media=None, max_length=160):
    renderer = Renderer.from_artifact(Artifact.load(model), max_length=max_length, media=media)
    documents = list(Dataset.open(data).corpus)
    rendered = [renderer.document(one.document_text, one.title, None, one.pieces) for one in documents]
    return renderer, documents, rendered, renderer.tokenize(rendered)


def test_a_mixed_batch_has_the_vectors_of_its_inputs_one_by_one(model, work):
    _, documents, _, ids = _inputs(model, work / "media", HEARD)
    load_media(ids, workers=2)
    assert {media.kind for one in documents for media in one.media} == {"image", "video", "audio"}
    retriever = Retriever.load(Artifact.load(model), pooling="last", normalize=True).eval()
    with torch.no_grad():
        batch, alone = retriever.vectors(ids), torch.cat([retriever.vectors([one]) for one in ids])
    torch.testing.assert_close(batch, alone, rtol=0, atol=1e-6)
    # Each kind counts: documents that differ in one alone are apart.
    assert (alone[1] - alone[2]).abs().max() > 1e-2
    assert (alone[3] - alone[9]).abs().max() > 1e-3


@pytest.mark.parametrize("heard", [False, True])
def test_ids_positions_and_vectors_are_those_of_the_published_processor_and_model(model, work, heard):
    from transformers import (
        AutoTokenizer,
        Qwen2_5OmniProcessor,
        Qwen2_5OmniThinkerForConditionalGeneration,
        Qwen2VLImageProcessor,
        Qwen2VLVideoProcessor,
        WhisperFeatureExtractor,
    )

    renderer, documents, _, ids = _inputs(model, work / "media", {"video_sound": heard})
    reader = renderer.pictures
    tokenizer = AutoTokenizer.from_pretrained(model)
    for name in ("image", "audio", "video", "vision_bos", "vision_eos", "audio_bos", "audio_eos"):
        mark = f"<|{name.upper() if name in ('image', 'audio', 'video') else name}|>"
        setattr(tokenizer, f"{name}_token", mark)
    settings = json.loads((model / "preprocessor_config.json").read_text())
    theirs = {
        key: settings[key] for key in ("patch_size", "merge_size", "temporal_patch_size", "image_mean", "image_std")
    }
    extractor = WhisperFeatureExtractor.from_pretrained(model)
    processor = Qwen2_5OmniProcessor(
        Qwen2VLImageProcessor(**theirs, size=settings["size"]),
        Qwen2VLVideoProcessor(**theirs, size=reader.size), extractor, tokenizer,
    )  # fmt: skip
    stock = Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(model).eval()
    ours = Retriever.load(Artifact.load(model), pooling="last", normalize=True).eval()
    compared = 0
    for document, found in zip(documents, ids, strict=True):
        clips = [one for one in document.media if one.kind == "video"]
        sounding = [video.has_sound(one) for one in clips]
        if heard and (not all(sounding) or any(one.kind == "audio" for one in document.media)):
            continue  # theirs takes all clips of a batch for heard, and a recording beside one for its sound
        written = "".join(
            {"image": "<|vision_bos|><|IMAGE|><|vision_eos|>", "video": "<|vision_bos|><|VIDEO|><|vision_eos|>",
             "audio": "<|audio_bos|><|AUDIO|><|audio_eos|>"}[piece.kind] if isinstance(piece, Media) else piece
            for piece in document.pieces or (document.document_text,)
        )  # fmt: skip
        given, step, frames_kwargs = {}, 1.0, {}
        sounds = [one for one in document.media if one.kind == "audio" or (one.kind == "video" and heard)]
        if sounds:
            given["audio"] = [reader.mel.waveform(one, reader.mel.samples(audio.duration(one))) for one in sounds]
        if images := [Image.open(one.path).convert("RGB") for one in document.media if one.kind == "image"]:
            given["images"] = images
        if clips:
            head = video.head(clips[0])
            times = reader.limits.times(head.seconds, 2)
            step = head.seconds * 2 / len(times)
            frames = np.stack(list(video.frames(clips[0], times)))
            given["videos"] = [torch.from_numpy(frames).permute(0, 3, 1, 2)]
            frames_kwargs = {
                "size": reader.size,
                "fps": 2 / step,
                "do_sample_frames": False,
                "use_audio_in_video": heard,
            }
        expected = processor(text=[written], return_tensors="pt", videos_kwargs=frames_kwargs, **given)
        assert expected["input_ids"][0].tolist() == list(found)
        items = found.pictures if media_of(found) else ()
        for item in items:
            if isinstance(item, Clip):
                assert expected["video_grid_thw"][0].tolist() == list(item.grid)
                difference = np.abs(expected["pixel_values_videos"].numpy() - item.patches)
                assert difference.max() <= 3.5 / 255 / 0.25  # two libraries' bicubic resizing of bytes
                assert difference.mean() < 0.3 / 255 / 0.25
                expected["pixel_values_videos"] = torch.from_numpy(item.patches)
            sound = item if isinstance(item, Sound) else getattr(item, "sound", None)
            if sound is not None:
                mask = expected["feature_attention_mask"][0].bool()
                np.testing.assert_allclose(expected["input_features"][0][:, mask].numpy(), sound.features, atol=1e-4)
            if isinstance(item, Clip | Sound):
                continue
            expected["pixel_values"] = torch.from_numpy(item.patches)
        if items:
            lengths = expected["feature_attention_mask"].sum(-1) if sounds else None
            seconds = torch.tensor([step]) if clips else None
            places, _ = stock.get_rope_index(
                expected["input_ids"], expected.get("image_grid_thw"), expected.get("video_grid_thw"),
                torch.ones_like(expected["input_ids"]), heard and bool(clips), lengths, seconds,
            )  # fmt: skip
            own = omni.positions(ours.backbone, [found], [items], torch.tensor([list(found)]))
            if images or clips:  # without them theirs counts in one row
                assert torch.equal(places, own)
        expected.pop("video_second_per_grid", None)
        with torch.no_grad():
            hidden = stock(
                **expected, output_hidden_states=True, use_audio_in_video=heard and bool(clips),
                video_second_per_grid=torch.tensor([step]) if clips else None,
            ).hidden_states[-1][:, -1]  # fmt: skip
            mine = ours.vectors([found])
        torch.testing.assert_close(torch.nn.functional.normalize(hidden, dim=-1), mine, rtol=0, atol=1e-5)
        compared += 1
    assert compared >= (8 if heard else 18)


def test_tokens_are_counted_before_anything_is_decoded(model, work):
    renderer, _, rendered, ids = _inputs(model, work / "media", HEARD)
    assert renderer.lengths(rendered) == [len(one) for one in ids]
    fewer = Renderer.from_artifact(
        Artifact.load(model), max_length=160, media={"video_frames": 2, "audio_seconds": 0.2}
    )
    assert sum(fewer.lengths(rendered)) < sum(renderer.lengths(rendered))
    marks = Marks.of(omni_models.config().to_dict())
    for one in ids:
        assert sum(token in (marks.image, marks.video, marks.audio) for token in one) == sum(
            renderer.pictures.count(media) for media in media_of(one)
        )
    with pytest.raises(DataError, match=r"clips of more tokens.*model.video_frames or model.video_pixels"):
        Renderer.from_artifact(Artifact.load(model), max_length=10, media=HEARD).tokenize(rendered[2:3])


def test_the_whole_published_model_loads_as_the_part_that_reads(model, tmp_path):
    """Qwen2.5-Omni as it is published holds the part under ``thinker.``, beside what speaks."""
    from safetensors.torch import load_file, save_file

    whole = shutil.copytree(model, tmp_path / "whole")
    state = load_file(model / "model.safetensors")
    save_file(
        {**{f"thinker.{name}": value for name, value in state.items()}, "talker.x": torch.zeros(2)},
        whole / "model.safetensors", {"format": "pt"},
    )  # fmt: skip
    part = json.loads((model / "config.json").read_text())
    (whole / "config.json").write_text(json.dumps({"model_type": "qwen2_5_omni", "thinker_config": part}))
    artifact = Artifact.load(whole)
    assert artifact.dim == 32
    found = Retriever.load(artifact, pooling="last", normalize=True).backbone.state_dict()
    assert found.keys() == state.keys() - {"lm_head.weight"}
    assert all(torch.equal(found[name], state[name]) for name in found)


@pytest.mark.parametrize("trained", ["full", "frozen towers", "lora", "lora with both towers", "frozen tower"])
def test_gradient_caching_gives_the_gradient_without_it(work, trained):
    expected, loss = vision_gradients.plainly(vision_gradients.OMNI, trained, work)
    for passes in ("plain in chunks", "cached unequal"):
        case = vision_gradients.Case(trained, passes, vision_gradients.OMNI)
        found, value = vision_gradients.by_teva(case, work)
        assert gradients.relative_difference(found, expected)[0] < 1e-5, case.name
        assert value == pytest.approx(loss, rel=1e-5)
    towers = {part for part in ("visual", "audio_tower") if any(part in name for name in expected)}
    assert towers == {
        "full": {"visual", "audio_tower"}, "lora with both towers": {"visual", "audio_tower"},
        "frozen tower": {"audio_tower"}, "frozen towers": set(), "lora": set(),
    }[trained]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["zero3"])
def test_two_processes_that_hold_parts_have_the_gradient_of_one(strategy, work, tmp_path):
    found = vision_gradients.by_processes(2, work, tmp_path / "out.safetensors", strategy, quick=True, kind="omni")
    for case in vision_gradients.omni_cases(quick=True):
        expected, loss = vision_gradients.plainly(case.model, case.trained, work)
        assert gradients.relative_difference(found[case.name][0], expected)[0] < 1e-5, case.name
        assert found[case.name][1] == pytest.approx(loss, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["", *gradients.STRATEGIES])
def test_all_ways_have_the_gradient_of_one(strategy, work, tmp_path):
    found = vision_gradients.by_processes(2, work, tmp_path / "out.safetensors", strategy, kind="omni")
    for case in vision_gradients.omni_cases():
        expected, loss = vision_gradients.plainly(case.model, case.trained, work)
        assert gradients.relative_difference(found[case.name][0], expected)[0] < 1e-5, case.name
        assert found[case.name][1] == pytest.approx(loss, rel=1e-5)


def test_a_run_from_end_to_end(model, work, tmp_path):
    artifact = train({
        "model": {"name": str(model), "pooling": "last", "normalize": True, "query_max_length": 64,
                  "document_max_length": 160, "video_sound": True, "video_rate": 3.0, "audio_seconds": 0.5},
        "data": {"path": str(work / "media"), "negatives": 2},
        "train": {"output": str(tmp_path / "run"), "steps": 3, "batch_size": 6, "learning_rate": 1e-3},
        "torch": {"device": "cpu", "lora": {"rank": 2}, "gradient_cache": True, "chunk_tokens": 64},
    }).artifact  # fmt: skip
    # What serves it samples as training did.
    config = json.loads((artifact.path / "config.json").read_text())
    assert config["teva_media"] == {"video_rate": 3.0, "video_frames": 24, "video_pixels": None, "video_sound": True,
                                    "audio_seconds": 0.5}  # fmt: skip
    assert config["architectures"] == ["Qwen2_5OmniThinkerForConditionalGeneration"]
    renderer, _, _, ids = _inputs(artifact.path, work / "media")
    assert renderer.pictures.limits.video_rate == 3.0
    encode = pytest.importorskip("teva_infer").encode

    found = encode(artifact.path, work / "media", tmp_path / "vectors", device="cpu", shard_size=7, batch_tokens=100)
    retriever = Retriever.load(artifact).eval()
    with torch.no_grad():
        alone = torch.cat([retriever.vectors([one]) for one in ids])
    np.testing.assert_allclose(found.matrix(), alone, atol=1e-6)


@pytest.mark.parametrize("kind", ["video", "audio"])
def test_vllm_is_given_no_clips_and_no_recordings(model, work, kind):
    Encoder = pytest.importorskip("teva_infer").Encoder
    from teva_infer.engines.offline_vllm import VllmEngine

    renderer, documents, _, ids = _inputs(model, work / "media", HEARD)
    row = next(at for at, one in enumerate(documents) if {media.kind for media in one.media} == {kind})
    # Refused before vLLM's process is asked: there is none.
    engine = VllmEngine(SimpleNamespace(about={}), "tokens")
    encoder = Encoder(Artifact.load(model), renderer, engine, "vllm")
    with pytest.raises(TevaError, match=rf"'vllm' is given pictures alone; found a piece of {kind}\. Use --engine tor"):
        encoder.encode_tokens([ids[row]])
