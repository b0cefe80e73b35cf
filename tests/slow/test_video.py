"""Clips come back as frames. Slow tier: FFmpeg's libraries have to be on the machine."""

from __future__ import annotations

import subprocess

import numpy as np
import pytest

from teva_data.errors import DataError
from teva_data.modalities import decode, video
from teva_data.pieces import Media

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """40 frames at 8 a second, each of one grey, lighter from frame to frame."""
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    frames = np.repeat(np.arange(40, 240, 5, dtype=np.uint8)[:, None], 64 * 48 * 3, axis=1)
    subprocess.run(
        ["ffmpeg", "-y", "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", "64x48", "-r", "8", "-i", "-", "-crf", "1",
         "-pix_fmt", "yuv444p", str(path)],
        input=frames.tobytes(), check=True, capture_output=True,
    )  # fmt: skip
    return path


@pytest.mark.parametrize(("asked", "expected"), [(4, [5, 15, 25, 35]), (1, [20]), (100, list(range(40)))])
def test_frames_are_spread_evenly(clip, asked, expected):
    found = video.decode(Media("video", str(clip)), frames=asked)
    assert found.frames.shape == (len(expected), 48, 64, 3)
    assert found.frames.dtype == np.uint8
    greys = found.frames.reshape(len(expected), -1).mean(axis=1)
    np.testing.assert_allclose(greys, 40 + 5 * np.array(expected), atol=2.5)
    np.testing.assert_allclose(found.seconds, np.array(expected) / 8, atol=1e-6)
    assert found.duration == 5


def test_damaged_clips_and_too_many_pixels_are_told(clip, tmp_path):
    with pytest.raises(DataError, match=r"At most 10,000 pixels"):
        video.decode(Media("video", str(clip)), max_pixels=10_000)
    (tmp_path / "cut.mp4").write_bytes(clip.read_bytes()[:300])
    with pytest.raises(DataError, match=r"cut\.mp4: the video cannot be decoded"):
        decode(Media("video", str(tmp_path / "cut.mp4")))
