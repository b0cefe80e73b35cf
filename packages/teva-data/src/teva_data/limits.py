"""What a model is given of a clip and of a recording: how many frames, of what size, how many seconds.

A recipe sets it (``model.video_rate`` ...), the artifact's ``config.json`` carries it, so that what encodes later
samples as training did.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .modalities import video

KEY = "teva_media"


@dataclasses.dataclass(frozen=True)
class MediaLimits:
    """What is taken of clips and recordings.

    Attributes:
        video_rate: frames a second of a clip.
        video_frames: frames of a clip at most: of a longer one they are spread over the whole of it.
        video_pixels: of one frame at most; the model's own limit where None.
        video_sound: whether a clip is heard too, where it has a sound track and the model hears.
        audio_seconds: of a recording, and of a clip's sound, from its beginning.
    """

    video_rate: float = 2.0
    video_frames: int = 24
    video_pixels: int | None = None
    video_sound: bool = False
    audio_seconds: float = 30.0

    @classmethod
    def of(cls, config: Mapping[str, Any], **changes: Any) -> MediaLimits:
        """The limits that a model's ``config.json`` carries, with those changed that are given and not None."""
        known = {field.name for field in dataclasses.fields(cls)}
        stored = {key: value for key, value in (config.get(KEY) or {}).items() if key in known}
        return cls(**{**stored, **{key: value for key, value in changes.items() if value is not None}})

    def record(self) -> dict[str, Any]:
        """As ``config.json`` carries them."""
        return dataclasses.asdict(self)

    def times(self, seconds: float, multiple: int = 1) -> NDArray[np.float64]:
        """When the frames that are taken of a clip are shown: the middles of equal parts of it.

        Args:
            seconds: of the clip.
            multiple: their number is one of it (a model takes two frames as one patch), if need be above the limit.

        Returns:
            float64 [T], ascending.
        """
        wanted = min(max(1, round(seconds * self.video_rate)), self.video_frames)
        return video.middles(seconds, max(multiple, wanted - wanted % multiple))
