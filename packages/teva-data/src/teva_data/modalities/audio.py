"""Recordings, by libsndfile: WAV, FLAC, Ogg Vorbis, Opus, MP3."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from teva_data.errors import MissingExtraError
from teva_data.pieces import Media

from . import undecodable

MAX_SECONDS = 3600.0
"""A longer recording is refused before it is decoded."""


@dataclass(frozen=True)
class Audio:
    """A recording.

    Attributes:
        samples: float32 [N] in -1..1, one channel (the mean of all).
        rate: samples in a second.
    """

    samples: NDArray[np.float32]
    rate: int

    @property
    def seconds(self) -> float:
        """Its length."""
        return len(self.samples) / self.rate


def decode(media: Media, *, max_seconds: float = MAX_SECONDS) -> Audio:
    """A recording at its own rate, as one channel.

    Args:
        media: where its bytes lie.
        max_seconds: its length at most.

    Raises:
        DataError: it cannot be read or decoded, has no samples or is longer than ``max_seconds``.
        MissingExtraError: soundfile is not installed.
    """
    try:
        import soundfile
    except ImportError as error:
        raise MissingExtraError("decoding audio", "teva-data[audio]") from error
    data = media.read()
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            if file.frames > max_seconds * file.samplerate:
                raise undecodable(
                    media, f"{file.frames / file.samplerate:.0f} seconds", f"At most {max_seconds:.0f} s are decoded"
                )
            samples = file.read(dtype="float32", always_2d=True).mean(axis=1)
            rate = int(file.samplerate)
    except soundfile.LibsndfileError as error:
        raise undecodable(media, error, "Is the file cut short or damaged?") from error
    if not len(samples):
        raise undecodable(media, "no samples", "Is the file cut short?")
    return Audio(samples, rate)
