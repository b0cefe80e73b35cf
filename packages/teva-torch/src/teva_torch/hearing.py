"""A third tower beside two: what CLAP hears with, in the space of texts and pictures.

transformers has models of a text's tower beside a picture's or beside a sound's, and none of all three. This is its
``VisionTextDualEncoder`` with ``audio_config``, CLAP's tower, in ``config.json``. Who reads the directory without teva
gets the two that transformers knows, with the same vectors of texts and pictures.
"""

from __future__ import annotations

import functools
from typing import Any

from torch import Tensor, nn

TYPE = "vision-text-dual-encoder"


def is_one(config: Any) -> bool:
    """Whether a configuration of transformers asks for such a model."""
    return bool(config.model_type == TYPE and getattr(config, "audio_config", None))


def settings_of(config: Any) -> Any:
    """The configuration of the tower that hears, which transformers keeps as a mapping where it does not know it."""
    from transformers import ClapAudioConfig

    own = config.audio_config
    return ClapAudioConfig(**own) if isinstance(own, dict) else own


@functools.cache
def model_class() -> Any:
    """The class, of transformers' own parts."""
    from transformers import ClapAudioModel, VisionTextDualEncoderModel

    class HearingDualEncoder(VisionTextDualEncoderModel):  # type: ignore[misc]
        """See the module."""

        def __init__(self, config: Any, vision_model: Any = None, text_model: Any = None) -> None:
            super().__init__(config, vision_model, text_model)
            heard = settings_of(config)
            self.audio_model = ClapAudioModel(heard)
            self.audio_projection = nn.Linear(heard.hidden_size, config.projection_dim, bias=False)

        def get_audio_features(self, input_features: Tensor) -> Any:
            """Vectors of spectrograms float32 [A, 1, frames, mel]: ``pooler_output`` float32 [A, projection_dim]."""
            found = self.audio_model(input_features=input_features)
            found.pooler_output = self.audio_projection(found.pooler_output)
            return found

    return HearingDualEncoder
