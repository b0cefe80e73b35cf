"""Pictures, clips and sounds as a model with several towers takes them: at one size, each an input of its own.

A clip is some of its frames, whose vectors the model takes the mean of (Luo et al., "CLIP4Clip", arXiv 2104.08860).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import sounds
from .artifact import Artifact
from .errors import ArtifactError, DataError
from .files import write_json
from .limits import MediaLimits
from .pictures import FILE, Picture, PictureReader, processor_of, settings_of
from .pieces import Media
from .sounds import Sound
from .towers import media_kinds


class TowerReader(PictureReader):
    """Reads pictures and clips at the one size that a tower takes.

    Args:
        processor: the model's image processor (transformers), on Pillow.
        settings: of the processor, as its file has them.
        size: pixels of a side.
        patch: pixels of a patch's side; a picture counts as many tokens as it has patches.
        limits: how many frames are taken of a clip.
    """

    apart = True
    kinds = ("image", "video")
    uses = ("video_rate", "video_frames")

    def __init__(
        self, processor: Any, settings: Mapping[str, Any], size: int, patch: int, limits: MediaLimits | None = None
    ) -> None:
        super().__init__(processor, "", "", "", settings)
        self.size, self.patch, self.limits = size, patch, limits or MediaLimits()
        self._frames = functools.lru_cache(1 << 16)(self._count_frames)

    @classmethod
    def of(cls, artifact: Artifact, config: Mapping[str, Any], limits: MediaLimits) -> PictureReader:
        """The reader of a model's media.

        Raises:
            ArtifactError: the processor's file is missing or cannot be loaded.
        """
        kinds = media_kinds(config)
        if "image" not in kinds:
            return SoundTowerReader.of(artifact, config, limits)
        settings, vision = settings_of(artifact), config["vision_config"]
        if settings is None:
            raise _no_file(artifact, "pictures are")
        size, patch = int(vision.get("image_size", 224)), int(vision["patch_size"])
        sees = cls(processor_of(artifact), settings, size, patch, limits)
        return TowersReader(sees, SoundTowerReader.of(artifact, config, limits)) if "audio" in kinds else sees

    def read(self, media: Media) -> Picture:
        """A picture's pixels, float32 [3, size, size], or those of a clip's frames, [frames, 3, size, size].

        Raises:
            MediaError: it cannot be decoded.
            DataError: it is a recording.
            ArtifactError: the processor's size is not the tower's.
        """
        expect(media, self.kinds)
        side = self.size // self.patch
        if media.kind == "image":
            from .modalities.image import decode

            return Picture(self._pixels(decode(media)), (1, side, side))
        from PIL import Image

        from .modalities import video

        times = self.limits.times(video.head(media).seconds)
        found = [self._pixels(Image.fromarray(frame)) for frame in video.frames(media, times.tolist())]
        return Picture(np.stack(found), (len(found), side, side))

    def _pixels(self, image: Any) -> NDArray[np.float32]:
        found = self.processor(images=[image], return_tensors="np")["pixel_values"][0]
        if found.shape != (3, self.size, self.size):
            raise ArtifactError(
                f"{FILE}: gives pictures of {' x '.join(map(str, found.shape))}; expected 3 x {self.size} x "
                f"{self.size}, the tower's vision_config.image_size"
            )
        return np.ascontiguousarray(found, dtype=np.float32)

    def count(self, media: Media) -> int:
        """The patches of a picture, or of a clip's frames, which is what it costs beside a text's tokens.

        Raises:
            DataError: it is a recording.
            MediaError: a clip's head cannot be read.
        """
        expect(media, self.kinds)
        return (self.size // self.patch) ** 2 * (1 if media.kind == "image" else self._frames(media))

    def _count_frames(self, media: Media) -> int:
        from .modalities import video

        return len(self.limits.times(video.head(media).seconds))

    def save(self, directory: Path) -> None:
        """Write the processor's file."""
        write_json(directory / FILE, dict(self.settings))


class SoundTowerReader(PictureReader):
    """Reads sounds, and those of clips, for a tower that hears (CLAP): all at one length.

    What is longer is cut: the published extractor takes a part of it at random, which would give another vector each
    time.

    Args:
        extractor: the model's feature extractor (transformers).
        settings: of the extractor, as its file has them.
        patches: of a spectrogram; a sound counts as many tokens.
        limits: how many seconds are taken.
    """

    apart = True
    kinds = ("audio", "video")
    uses = ("audio_seconds",)

    def __init__(self, extractor: Any, settings: Mapping[str, Any], patches: int, limits: MediaLimits) -> None:
        super().__init__(None, "", "", "", settings)
        self.extractor, self.patches, self.limits = extractor, patches, limits
        self.heard = extractor.nb_max_samples / extractor.sampling_rate
        self.seconds = min(limits.audio_seconds, self.heard)

    @classmethod
    def of(cls, artifact: Artifact, config: Mapping[str, Any], limits: MediaLimits) -> SoundTowerReader:
        """The reader of a model's sounds.

        Raises:
            ArtifactError: the extractor's file is missing, or it is of CLAP's fused kind, which draws at random.
        """
        settings, audio = sounds.settings_of(artifact), config["audio_config"]
        if settings is None:
            raise _no_file(artifact, "sounds are")
        if audio.get("enable_fusion"):
            raise ArtifactError(
                f"{artifact.path}: found a fused CLAP (audio_config.enable_fusion), which hears parts of a long sound "
                "drawn at random; expected an unfused one"
            )
        stride = audio.get("patch_stride", [4, 4])
        side = int(audio.get("spec_size", 256)) // int(stride[0] if isinstance(stride, list) else stride)
        # Its layers work on a quarter of the patches each time: most of the work is done on the second's.
        return cls(sounds.extractor_of(artifact), settings, side * side // 4, limits)

    def read(self, media: Media) -> Sound:  # type: ignore[override]
        """A sound's spectrogram, float32 [1, frames, mel].

        Raises:
            MediaError: it cannot be decoded.
            DataError: it is a picture.
        """
        from .modalities.audio import duration

        expect(media, self.kinds)
        rate = int(self.extractor.sampling_rate)
        wanted = max(1, math.floor(min(duration(media), self.seconds) * rate))
        samples = sounds.waveform(media, wanted, rate, self.seconds)
        found = self.extractor(samples, sampling_rate=rate, truncation="rand_trunc", return_tensors="np")
        return Sound(np.ascontiguousarray(found["input_features"][0], dtype=np.float32), self.patches)

    def count(self, media: Media) -> int:
        """What a sound costs beside a text's tokens.

        Raises:
            DataError: it is a picture.
        """
        expect(media, self.kinds)
        return self.patches

    def save(self, directory: Path) -> None:
        """Write the extractor's file."""
        write_json(directory / FILE, dict(self.settings))


class TowersReader(PictureReader):
    """Reads pictures and clips for one tower and recordings for another.

    Args:
        sees: reads pictures and clips.
        hears: reads recordings.
    """

    apart = True
    kinds = ("image", "video", "audio")
    uses = (*TowerReader.uses, *SoundTowerReader.uses)

    def __init__(self, sees: TowerReader, hears: SoundTowerReader) -> None:
        super().__init__(sees.processor, "", "", "", {**sees.settings, **hears.settings})
        self.sees, self.hears, self.limits, self.heard = sees, hears, sees.limits, hears.heard

    def read(self, media: Media) -> Picture | Sound:  # type: ignore[override]
        """See :meth:`TowerReader.read` and :meth:`SoundTowerReader.read`."""
        return self.hears.read(media) if media.kind == "audio" else self.sees.read(media)

    def count(self, media: Media) -> int:
        """See :meth:`TowerReader.count` and :meth:`SoundTowerReader.count`."""
        return self.hears.count(media) if media.kind == "audio" else self.sees.count(media)

    def save(self, directory: Path) -> None:
        """Write the file of both processors."""
        write_json(directory / FILE, dict(self.settings))


def expect(media: Media, kinds: tuple[str, ...]) -> None:
    """Refuse what a model does not take.

    Raises:
        DataError: it is of another kind.
    """
    if media.kind not in kinds:
        names = {"image": "pictures", "video": "clips", "audio": "recordings"}
        raise DataError(
            f"this model takes {' and '.join(names[kind] for kind in kinds)}, and no {media.kind}", file=media.path
        )


def _no_file(artifact: Artifact, what: str) -> ArtifactError:
    return ArtifactError(
        f"{artifact.path}: no {FILE}, which says how {what} prepared. Copy that of the model it was made from into the "
        "directory"
    )
