"""Recordings: WAV, FLAC, Ogg, Opus, MP3 by libsndfile; what else FFmpeg reads (AAC, a clip's sound) by torchcodec.

Samples come as one channel, at their own rate or at the one that is asked for (libsoxr). Of a long recording only what
is asked for is read: memory is bounded by the seconds asked for, not by the file. A clip's sound is counted from its
first frame on, so that both go together: where the sound track begins later, silence stands before it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from teva_data.errors import MissingExtraError
from teva_data.pieces import Media

from . import undecodable, video

MAX_SECONDS = 3600.0
"""A longer recording is refused before it is decoded, where not just its beginning is asked for."""

_CUT = "Is the file cut short or damaged?"
# What a recording may lack of the samples that its head tells: heads of lossy files are not exact. Ogg's counts from
# where the whole was, of a recording whose first packets were cut away: two of them, in a stamp that is spoken here.
_MISSING = 0.05
_MISSING_OF_OGG = 0.05  # seconds


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


def duration(media: Media) -> float:
    """Seconds of a recording, or of a clip's sound, by its head: nothing is decoded.

    Raises:
        MediaError: it cannot be read, or has no samples.
        MissingExtraError: the library is not installed.
    """
    if media.kind == "audio":
        soundfile = _soundfile()
        try:
            with media.open() as data, soundfile.SoundFile(data) as file:
                return _some(media, file.frames / file.samplerate)
        except soundfile.LibsndfileError as error:
            return _some(media, _by_ffmpeg(media, error, None).duration)
    return _some(media, _by_ffmpeg(media, None, None).duration)


def decode(
    media: Media, *, max_seconds: float = MAX_SECONDS, seconds: float | None = None, rate: int | None = None
) -> Audio:
    """A recording as one channel.

    Args:
        media: where its bytes lie; of a clip (``video``) it is the sound.
        max_seconds: its length at most.
        seconds: take so much from its beginning; then a longer one is not refused.
        rate: samples a second; its own where not given.

    Raises:
        MediaError: it cannot be read or decoded, has no samples, ends before its head says, or is longer than
            ``max_seconds``.
        MissingExtraError: soundfile or soxr is not installed.
    """
    if media.kind == "audio":
        soundfile = _soundfile()
        try:
            with media.open() as data, soundfile.SoundFile(data) as file:
                whole, own = file.frames, int(file.samplerate)
                _expect_length(media, whole / own, seconds, max_seconds)
                wanted = whole if seconds is None else min(whole, round(seconds * own))
                samples = _mono(file.read(wanted, dtype="float32", always_2d=True))
        except soundfile.LibsndfileError as error:
            return _through_ffmpeg(media, error, seconds, max_seconds, rate)
        _expect_samples(media, len(samples), wanted, own)
        return Audio(samples, own) if rate in (None, own) else Audio(_resampled(samples, own, rate or own), rate or own)
    return _through_ffmpeg(media, None, seconds, max_seconds, rate)


@dataclass(frozen=True)
class _Decoder:
    """torchcodec's, and when a sound is heard.

    Attributes:
        decoder: gives samples by the file's clock.
        rate: samples a second.
        start: of the recording, or of the clip's frames; seconds by the file's clock.
        begin: of the sound itself; no earlier than ``start``.
        duration: seconds from ``start`` to the end.
        own: whether the head tells the end of the sound itself, and not just that of the whole file.
    """

    decoder: Any
    rate: int
    start: float
    begin: float
    duration: float
    own: bool


def _by_ffmpeg(media: Media, first: Exception | None, rate: int | None) -> _Decoder:
    """torchcodec's decoder of what libsndfile does not read; ``first`` is what that said."""
    try:
        from torchcodec.decoders import AudioDecoder
    except (ImportError, RuntimeError, OSError) as error:
        if first is not None:
            raise undecodable(media, first, _CUT) from error
        raise MissingExtraError("decoding a clip's sound", "teva-data[video]") from error
    try:
        decoder = AudioDecoder(media.open(), sample_rate=rate, num_channels=1)
    except (RuntimeError, ValueError) as error:
        raise undecodable(media, first or error, _CUT) from error
    found = decoder.metadata
    # What lies before 0 is the codec's run-up, which is not heard.
    begin = max(0.0, float(found.begin_stream_seconds_from_header or 0))
    frames = video.begin(media) if media.kind == "video" else None
    start = begin if frames is None else frames
    if (own := found.duration_seconds_from_header) is not None:
        duration = begin + float(own) - start
    elif frames is not None:
        duration = float(found.duration_seconds or 0)  # of the file, whose clock begins with its frames
    else:
        duration = float(found.duration_seconds or 0) - begin
    return _Decoder(
        decoder, int(rate or found.sample_rate or 0), start, max(begin, start), max(duration, 0.0), own is not None
    )


def _through_ffmpeg(
    media: Media, first: Exception | None, seconds: float | None, max_seconds: float, rate: int | None
) -> Audio:
    opened = _by_ffmpeg(media, first, rate)
    _expect_length(media, opened.duration, seconds, max_seconds)
    wanted = opened.duration if seconds is None else min(opened.duration, seconds)
    count, stop = round(wanted * opened.rate), opened.start + max(wanted, 1 / opened.rate)
    if opened.begin >= stop:
        return Audio(np.zeros(count, np.float32), opened.rate)
    try:
        found = opened.decoder.get_samples_played_in_range(opened.start, stop)
    except (RuntimeError, ValueError) as error:
        raise undecodable(media, error, _CUT) from error
    samples = np.ascontiguousarray(found.data[0].numpy(), dtype=np.float32)
    silence = min(count, max(0, round((found.pts_seconds - opened.start) * opened.rate)))
    # Matroska's head tells the end of the file alone, before which a whole sound may end: then the frames go on.
    if opened.own or media.kind != "video" or not video.reaches(media, opened.start + wanted * (1 - _MISSING)):
        _expect_samples(media, len(samples), count - silence, opened.rate)
    return Audio(np.concatenate([np.zeros(silence, np.float32), samples])[:count], opened.rate)


def _mono(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    found: NDArray[np.float32] = samples[:, 0] if samples.shape[1] == 1 else samples.mean(axis=1)
    return found


def _resampled(samples: NDArray[np.float32], own: int, rate: int) -> NDArray[np.float32]:
    try:
        import soxr
    except ImportError as error:
        raise MissingExtraError("resampling audio", "teva-data[audio]") from error
    found: NDArray[np.float32] = soxr.resample(samples, own, rate)
    return found


def _expect_length(media: Media, found: float, seconds: float | None, most: float) -> None:
    if seconds is None and found > most:
        raise undecodable(media, f"{found:.0f} seconds", f"At most {most:.0f} s are decoded")


def _expect_samples(media: Media, found: int, wanted: int, rate: int) -> None:
    if not found:
        raise undecodable(media, "no samples", "Is the file cut short?")
    if found < wanted * (1 - _MISSING) and not (found >= wanted - rate * _MISSING_OF_OGG and _is_ogg(media)):
        raise undecodable(media, f"{found} samples, where its head says {wanted}", "Is the file cut short?")


def _is_ogg(media: Media) -> bool:
    with media.open() as data:
        return bytes(data.read(4)) == b"OggS"


def _some(media: Media, seconds: float) -> float:
    if not seconds > 0:
        raise undecodable(media, "no samples", "Is the file cut short?")
    return seconds


def _soundfile() -> Any:
    try:
        import soundfile
    except ImportError as error:
        raise MissingExtraError("decoding audio", "teva-data[audio]") from error
    return soundfile
