"""`teva-data show` of clips and recordings: what the model is given, made again."""

from __future__ import annotations

import re
import shutil

import numpy as np
import pytest
from PIL import Image
from tests.torch import omni_models

from teva_data.cli import main
from teva_data.dataset import Dataset
from teva_data.modalities import video

pytestmark = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="makes its clips with ffmpeg")


def test_frames_and_sounds_are_shown_as_the_model_has_them(tmp_path, capsys):
    data, model = omni_models.make_data(tmp_path / "data"), omni_models.make(tmp_path / "model")
    (tmp_path / "recipe.yaml").write_text(
        f"""
        schema: "1"
        model: {{name: {model}, pooling: last, document_max_length: 160, video_sound: true, video_pixels: 768}}
        data: {{path: {data}, negatives: 0}}
        train: {{output: x, steps: 1, batch_size: 2}}
        """
    )
    words = ["--row", "2", "--recipe", str(tmp_path / "recipe.yaml"), "--pictures", str(tmp_path / "out")]
    assert main(["show", str(data), *words, "--documents", "1"]) == 0
    out = capsys.readouterr().out
    (seen,) = re.findall(
        r"seen    0\.mp4 as 2 frames of 32 x 24 pixels, 6 x 8 patches, one each 0\.50 s, (\d+) tokens, 25 of them", out
    )
    assert int(seen) == 12 + 25
    assert "⟨<|VIDEO|> x 12⟩" in out
    assert "⟨<|AUDIO|> x 25⟩" in out
    # The frames are those of the clip: what the model sees is not resized here.
    media = next(one for one in Dataset.open(data).corpus if one.docid == "d2").media[0]
    frames = list(video.frames(media, video.middles(video.head(media).seconds, 2).tolist()))
    with Image.open(tmp_path / "out" / "0-positive-0.png") as written:
        shown = np.asarray(written.convert("RGB"), int)[:24, :64]
    assert np.abs(shown - np.concatenate(frames, axis=1).astype(int)).max() <= 1
    # A recording: its wave, and its spectrogram below.
    words[1] = "3"
    assert main(["show", str(data), *words, "--documents", "1"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"heard   0\.wav as \d+ frames of 16 mel bands, \d+ tokens", out)
    with Image.open(tmp_path / "out" / "0-positive-0.png") as written:
        wave = np.asarray(written.convert("L"), int)[:80]
        assert written.height == 160
    assert (wave[40] < 128).all()  # each column crosses the middle
    assert 0.05 < (wave < 128).mean() < 0.95
