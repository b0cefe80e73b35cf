"""Clips, by torchcodec (which needs FFmpeg's libraries on the machine)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from teva_data.errors import MissingExtraError
from teva_data.pieces import Media

from . import undecodable

FRAMES = 16
MAX_PIXELS = 100_000_000
"""Of all frames that are asked for, together; more are refused before they are decoded."""


@dataclass(frozen=True)
class Video:
    """Frames of a clip.

    Attributes:
        frames: uint8 [T, H, W, 3], RGB.
        seconds: float64 [T], when each is shown, from the clip's start.
        duration: seconds of the whole clip.
    """

    frames: NDArray[np.uint8]
    seconds: NDArray[np.float64]
    duration: float


def decode(media: Media, *, frames: int = FRAMES, max_pixels: int = MAX_PIXELS) -> Video:
    """Frames spread evenly over a clip: the middle of each of ``frames`` equal parts, all where it has no more.

    Args:
        media: where its bytes lie.
        frames: how many at most.
        max_pixels: pixels of all of them together at most.

    Raises:
        DataError: it cannot be read or decoded, or there would be more than ``max_pixels``.
        MissingExtraError: torchcodec is not installed, or finds no FFmpeg.
    """
    try:
        from torchcodec.decoders import VideoDecoder
    except (ImportError, RuntimeError, OSError) as error:  # without FFmpeg its libraries do not load
        raise MissingExtraError("decoding video", "teva-data[video]") from error
    data = media.read()
    try:
        decoder = VideoDecoder(data, dimension_order="NHWC")
        count = len(decoder)
        taken = min(frames, count)
        height, width = decoder.metadata.height or 0, decoder.metadata.width or 0
        if taken * width * height > max_pixels:
            raise undecodable(
                media, f"{taken} frames of {width} x {height} pixels", f"At most {max_pixels:,} pixels are decoded"
            )
        chosen = ((np.arange(taken) + 0.5) * count / taken).astype(int).tolist()
        found = decoder.get_frames_at(chosen)
        return Video(
            found.data.numpy(),
            found.pts_seconds.numpy().astype(np.float64),
            float(decoder.metadata.duration_seconds or 0),
        )
    except (RuntimeError, ValueError, IndexError) as error:
        raise undecodable(media, error, "Is the file cut short or damaged?") from error
