"""Sounds as a model takes them: the mel spectrogram of one channel at the model's rate, within a budget of seconds."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .artifact import Artifact
from .errors import ArtifactError, MediaError, MissingExtraError
from .pieces import Media

FILE = "preprocessor_config.json"
_LEAST = 0.1  # seconds; what is shorter is filled up with silence, since a model has no token for it


@dataclasses.dataclass(frozen=True, eq=False)
class Sound:
    """A sound as a model takes it.

    Attributes:
        features: float32 [mel, frames] of a model that reads it in a sequence, or as the model's extractor has it.
        tokens: that it is for the model.
    """

    features: NDArray[np.float32]
    tokens: int


class MelReader:
    """Reads sounds for a model whose extractor is Whisper's: 16,000 samples and 100 frames a second, 128 or 80 mels.

    Args:
        extractor: transformers' ``WhisperFeatureExtractor`` with the model's settings.
        seconds: taken of each sound at most.
    """

    def __init__(self, extractor: Any, seconds: float) -> None:
        self.extractor = extractor
        # The model has positions for so much and no more.
        self.seconds = min(seconds, float(extractor.chunk_length))

    def samples(self, seconds: float) -> int:
        """Samples that are taken of a sound of so many seconds."""
        return max(math.floor(min(seconds, self.seconds) * int(self.extractor.sampling_rate)), self._least)

    def tokens(self, seconds: float) -> int:
        """Tokens of a sound of so many seconds, in Qwen2-Audio's and Qwen2.5-Omni's way: 25 of a second."""
        return tokens_of(self.frames(self.samples(seconds)))

    def frames(self, samples: int) -> int:
        """Frames of a spectrogram of so many samples."""
        return math.ceil(samples / int(self.extractor.hop_length))

    def seconds_of(self, media: Media) -> float:
        """Seconds of a recording, or of a clip's sound, by its head.

        Raises:
            MediaError: it cannot be read.
        """
        from .modalities.audio import duration

        return duration(media)

    def read(self, media: Media) -> Sound:
        """The spectrogram of a recording, or of a clip's sound.

        Raises:
            MediaError: it cannot be decoded, or is shorter than its head says.
        """
        seconds = self.seconds_of(media)
        wanted = self.samples(seconds)
        found = self.waveform(media, wanted)
        frames = self.frames(wanted)
        # What stands behind the sound is silence, as in the model's own padded batches, and not its mirror image.
        padded = np.pad(found, (0, int(self.extractor.n_fft)))
        features = self.extractor(
            padded, sampling_rate=self.extractor.sampling_rate, padding="do_not_pad", truncation=False,
            return_tensors="np",
        )["input_features"][0][:, :frames]  # fmt: skip
        return Sound(np.ascontiguousarray(features, dtype=np.float32), tokens_of(frames))

    def waveform(self, media: Media, wanted: int) -> NDArray[np.float32]:
        """So many samples from a sound's beginning, float32 [wanted], silence behind them where it is shorter."""
        return waveform(media, wanted, int(self.extractor.sampling_rate), self.seconds)

    @property
    def _least(self) -> int:
        return round(_LEAST * int(self.extractor.sampling_rate))


def waveform(media: Media, wanted: int, rate: int, seconds: float) -> NDArray[np.float32]:
    """Samples of a sound at a rate: float32 [wanted].

    Args:
        media: a recording, or a clip.
        wanted: samples; silence stands behind a sound that has fewer.
        rate: samples a second.
        seconds: decoded at most.

    Raises:
        MediaError: it cannot be decoded.
    """
    from .modalities.audio import decode

    samples = decode(media, seconds=seconds, rate=rate).samples[:wanted]
    if not np.isfinite(samples).all():
        raise MediaError("the audio holds samples that are no numbers", file=media.path, expected="finite samples")
    return np.pad(samples, (0, wanted - len(samples)))


def tokens_of(frames: int) -> int:
    """Tokens of a spectrogram of so many frames: a convolution of stride 2, then the mean of each two."""
    return ((frames - 1) // 2 + 1 - 2) // 2 + 1


def extractor_of(artifact: Artifact) -> Any:
    """A model's feature extractor.

    Raises:
        ArtifactError: it cannot be loaded.
        MissingExtraError: transformers is not installed.
    """
    try:
        from transformers import AutoFeatureExtractor
    except ImportError as error:
        raise MissingExtraError("reading sounds", "teva-data[inputs,audio]") from error
    try:
        return AutoFeatureExtractor.from_pretrained(str(artifact.path), local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        raise ArtifactError(f"{artifact.path}: the feature extractor cannot be loaded: {error}") from error


def settings_of(artifact: Artifact) -> Mapping[str, Any] | None:
    """What a model's files say of its feature extractor: alone, among those of images, or within the processor's."""
    for name in ("processor_config.json", FILE):
        if (artifact.path / name).is_file():
            found: dict[str, Any] = json.loads((artifact.path / name).read_text(encoding="utf-8"))
            if "feature_extractor" in found:
                return dict(found["feature_extractor"])
            if name == FILE and "feature_extractor_type" in found:
                return found
    return None
