"""Pictures as a model with two towers takes them: at one size, each an input of its own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .artifact import Artifact
from .errors import ArtifactError
from .files import write_json
from .pictures import FILE, Picture, PictureReader, expect_image, processor_of, settings_of
from .pieces import Media


class TowerReader(PictureReader):
    """Reads pictures at the one size that a tower takes.

    Args:
        processor: the model's image processor (transformers), on Pillow.
        settings: of the processor, as its file has them.
        size: pixels of a side.
        patch: pixels of a patch's side; a picture counts as many tokens as it has patches.
    """

    apart = True

    def __init__(self, processor: Any, settings: Mapping[str, Any], size: int, patch: int) -> None:
        super().__init__(processor, "", "", "", settings)
        self.size, self.patch = size, patch

    @classmethod
    def of(cls, artifact: Artifact, config: Mapping[str, Any]) -> TowerReader:
        """The reader of a model's pictures.

        Raises:
            ArtifactError: the image processor's file is missing or cannot be loaded.
        """
        settings, vision = settings_of(artifact), config["vision_config"]
        if settings is None:
            raise ArtifactError(
                f"{artifact.path}: no {FILE}, which says how pictures are prepared. Copy that of the model it was made "
                "from into the directory"
            )
        return cls(processor_of(artifact), settings, int(vision.get("image_size", 224)), int(vision["patch_size"]))

    def read(self, media: Media) -> Picture:
        """A picture's pixels, float32 [3, size, size].

        Raises:
            DataError: it is no picture, or cannot be decoded.
            ArtifactError: the processor's size is not the tower's.
        """
        from .modalities.image import decode

        expect_image(media)
        found = self.processor(images=[decode(media)], return_tensors="np")["pixel_values"][0]
        if found.shape != (3, self.size, self.size):
            raise ArtifactError(
                f"{FILE}: gives pictures of {' x '.join(map(str, found.shape))}; expected 3 x {self.size} x "
                f"{self.size}, the tower's vision_config.image_size"
            )
        side = self.size // self.patch
        return Picture(np.ascontiguousarray(found, dtype=np.float32), (1, side, side))

    def count(self, media: Media) -> int:
        """A picture's patches, which is what it costs beside a text's tokens.

        Raises:
            DataError: it is no picture.
        """
        expect_image(media)
        return (self.size // self.patch) ** 2

    def save(self, directory: Path) -> None:
        """Write the processor's file."""
        write_json(directory / FILE, dict(self.settings))
