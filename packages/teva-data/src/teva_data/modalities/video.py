"""Clips, by torchcodec (which needs FFmpeg's libraries on the machine).

Frames are asked for by time, so a variable frame rate changes nothing. Of a file of up to 256 MB the packets are gone
through first, undecoded, since not every head tells the length; a larger one is taken at its head's word. A few frames
are in memory at a time, whatever the clip.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from teva_data.errors import MissingExtraError
from teva_data.pieces import Media

from . import undecodable

FRAMES = 16
MAX_PIXELS = 100_000_000
"""Of all frames that are decoded together; more are refused before they are decoded."""

_TOGETHER = 4_000_000  # pixels that are decoded at a time
_WHOLE = 256_000_000  # bytes of a file that is gone through
_LEAST = 0.95  # share of the frames that its head tells of, below which a file has been cut short
_CUT = "Is the file cut short or damaged?"


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


@dataclass(frozen=True)
class Head:
    """What a clip's head says.

    Attributes:
        width: pixels.
        height: pixels.
        seconds: from the first frame to the end of the last.
        frames: how many.
    """

    width: int
    height: int
    seconds: float
    frames: int


def head(media: Media) -> Head:
    """How long a clip is, and how large its frames; nothing is decoded.

    Raises:
        MediaError: it cannot be read, has no video stream, or no frame.
        MissingExtraError: torchcodec is not installed, or finds no FFmpeg.
    """
    return _Opened(media).head


def has_sound(media: Media) -> bool:
    """Whether a clip has a sound track beside its frames.

    Raises:
        MediaError: it cannot be read.
        MissingExtraError: torchcodec is not installed, or finds no FFmpeg.
    """
    _decoder_class()
    from torchcodec.decoders import AudioDecoder

    with media.open() as data:
        try:
            AudioDecoder(data)
        except (RuntimeError, ValueError) as error:
            if _lacks("audio", error):
                return False
            raise undecodable(media, error, _CUT) from error
    return True


def begin(media: Media) -> float | None:
    """When a clip's first frame is shown, in seconds by its file's clock, which its sound goes by too, from its head.

    Returns:
        None where it has no video stream.

    Raises:
        MediaError: it cannot be read.
        MissingExtraError: torchcodec is not installed, or finds no FFmpeg.
    """
    found = _streams(media, "approximate")
    return None if found is None else float(found.begin_stream_seconds_from_header or 0)


def reaches(media: Media, seconds: float) -> bool:
    """Whether a clip's frames go on up to a time by its file's clock; its packets are gone through, undecoded.

    Raises:
        MediaError: it cannot be read.
        MissingExtraError: torchcodec is not installed, or finds no FFmpeg.
    """
    found = _streams(media, "exact")
    return found is not None and float(found.end_stream_seconds_from_content or 0) >= seconds


def _streams(media: Media, mode: str) -> Any:
    """What torchcodec tells of a clip's video stream; None where it has none."""
    kind = _decoder_class()
    with media.open() as data:
        try:
            return kind(data, seek_mode=mode).metadata
        except (RuntimeError, ValueError, TypeError) as error:
            if _lacks("video", error):
                return None
            if mode == "approximate":
                return _streams(media, "exact")  # the head does not say enough
            raise undecodable(media, error, _CUT) from error


def _lacks(kind: str, error: Exception) -> bool:
    """Whether torchcodec says that a file has no stream of a kind."""
    return f"no {kind} stream" in str(error) or f"best {kind} stream is unknown" in str(error)


def middles(seconds: float, count: int) -> NDArray[np.float64]:
    """The middle of each of ``count`` equal parts of so many seconds: float64 [count]."""
    found: NDArray[np.float64] = (np.arange(count) + 0.5) * seconds / count
    return found


def frames(media: Media, times: Sequence[float], *, max_pixels: int = MAX_PIXELS) -> Iterator[NDArray[np.uint8]]:
    """The frames that are shown at some times, one by one; few are in memory together.

    Args:
        media: where the clip's bytes lie.
        times: seconds from the clip's start, ascending, before its end.
        max_pixels: of one frame at most.

    Yields:
        uint8 [H, W, 3], RGB.

    Raises:
        MediaError: it cannot be read or decoded, or its frames are larger than ``max_pixels``.
        MissingExtraError: torchcodec is not installed, or finds no FFmpeg.
    """
    opened = _Opened(media)
    pixels = opened.head.width * opened.head.height
    if pixels > max_pixels:
        raise _too_many(media, opened.head, 1, max_pixels)
    step = max(1, _TOGETHER // pixels)
    for start in range(0, len(times), step):
        yield from opened.at(times[start : start + step])[0]


def decode(media: Media, *, frames: int = FRAMES, max_pixels: int = MAX_PIXELS) -> Video:
    """Frames spread evenly over a clip: the middle of each of ``frames`` equal parts, all where it has no more.

    Args:
        media: where its bytes lie.
        frames: how many at most.
        max_pixels: pixels of all of them together at most.

    Raises:
        MediaError: it cannot be read or decoded, or there would be more than ``max_pixels``.
        MissingExtraError: torchcodec is not installed, or finds no FFmpeg.
    """
    opened = _Opened(media)
    found = opened.head
    taken = min(frames, found.frames)
    if taken * found.width * found.height > max_pixels:
        raise _too_many(media, found, taken, max_pixels)
    images, seconds = opened.at(middles(found.seconds, taken).tolist())
    return Video(images, seconds, found.seconds)


class _Opened:
    """A clip whose head is read."""

    def __init__(self, media: Media) -> None:
        self._media, self._kind = media, _decoder_class()
        self._decoder, self.head = self._open()
        if self.head.frames <= 0 or self.head.seconds <= 0:
            raise undecodable(media, "0 frames", _CUT)
        if not self.head.width or not self.head.height:
            raise undecodable(media, "frames without a size", _CUT)

    def _open(self, mode: str | None = None) -> tuple[Any, Head]:
        data = self._media.open()
        mode = mode or ("exact" if data.seek(0, 2) <= _WHOLE else "approximate")
        data.seek(0)
        try:
            decoder = self._kind(data, dimension_order="NHWC", seek_mode=mode)
        except (RuntimeError, ValueError, TypeError) as error:
            data.close()
            if _lacks("video", error):
                raise undecodable(self._media, "no video stream", "Is it a recording?") from error
            if mode == "approximate":
                return self._open("exact")  # the head does not say enough
            raise undecodable(self._media, error, _CUT) from error
        found = decoder.metadata
        frames, told = int(found.num_frames or 0), int(found.num_frames_from_header or 0)
        if frames < told * _LEAST:
            raise undecodable(self._media, f"{frames} frames, where its head tells of {told}", _CUT)
        self._begin = float(found.begin_stream_seconds or 0)
        return decoder, Head(int(found.width or 0), int(found.height or 0), float(found.duration_seconds or 0), frames)

    def at(self, times: Sequence[float]) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
        """Frames uint8 [T, H, W, 3] at times, and when each begins."""
        # One by one: asked for several at once, the decoder counts them by the mean frame rate.
        found = [self._one(self._begin + time) for time in times]
        seconds = np.array([one.pts_seconds - self._begin for one in found], dtype=np.float64)
        return np.stack([one.data.numpy() for one in found]), seconds

    def _one(self, time: float) -> Any:
        try:
            return self._decoder.get_frame_played_at(time)
        except (RuntimeError, ValueError, IndexError) as error:
            raise undecodable(self._media, error, _CUT) from error


def _decoder_class() -> Any:
    try:
        from torchcodec.decoders import VideoDecoder
    except (ImportError, RuntimeError, OSError) as error:  # without FFmpeg its libraries do not load
        raise MissingExtraError("decoding video", "teva-data[video]") from error
    return VideoDecoder


def _too_many(media: Media, found: Head, count: int, most: int) -> Exception:
    return undecodable(
        media, f"{count} frames of {found.width} x {found.height} pixels", f"At most {most:,} pixels are decoded"
    )
