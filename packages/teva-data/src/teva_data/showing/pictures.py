"""A picture as a model sees it: its size, its grid, what it costs, and itself, made again from the patches."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from teva_data.errors import RecipeError
from teva_data.pictures import Picture, PictureReader
from teva_data.pieces import Media

if TYPE_CHECKING:
    from PIL.Image import Image

    from teva_data.showing import Example


@dataclass(frozen=True)
class Seen:
    """A picture as a model sees it.

    Attributes:
        media: where it lies.
        size: pixels of width and height after resizing.
        grid: rows and columns of patches.
        tokens: that it is for the model.
        image: it, resized.
    """

    media: Media
    size: tuple[int, int]
    grid: tuple[int, int]
    tokens: int
    image: Image


def seen(reader: PictureReader, media: Media) -> Seen:
    """Read a picture as the model does, and make it again.

    Raises:
        DataError: it cannot be decoded.
    """
    from PIL import Image

    picture = reader.read(media)
    _, rows, columns = picture.grid
    pixels = _pixels(reader, picture)
    processor = reader.processor
    shades = (pixels * np.asarray(processor.image_std) + np.asarray(processor.image_mean)) * 255
    image = Image.fromarray(shades.round().clip(0, 255).astype(np.uint8))
    return Seen(media, image.size, (rows, columns), reader.count(media), image)


def _pixels(reader: PictureReader, picture: Picture) -> np.ndarray:
    """Normalised pixels, float32 [height, width, 3]."""
    if reader.apart:
        return picture.patches.transpose(1, 2, 0)
    _, rows, columns = picture.grid
    merge, side = int(reader.processor.merge_size), int(reader.processor.patch_size)
    # A block of patches that become one token is kept together: [block row, block column, row, column, patch]; a still
    # picture is the same in all frames.
    blocks = picture.patches.reshape(rows // merge, columns // merge, merge, merge, 3, -1, side, side)[..., 0, :, :]
    return blocks.transpose(0, 2, 5, 1, 3, 6, 4).reshape(rows * side, columns * side, 3)


def save(example: Example, directory: Path) -> list[Path]:
    """Write an example's pictures as the model sees them.

    Raises:
        RecipeError: there is none: no model is shown, or it sees no pictures, or the example has none.
    """
    shown = [(each, at, one) for each in (example.query, *example.documents) for at, one in enumerate(each.seen)]
    if not shown:
        raise RecipeError("pictures: nothing to write; expected a model or a recipe that sees, and a row with pictures")
    directory.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, (each, at, one) in enumerate(shown):
        paths.append(directory / f"{number}-{each.role}-{at}.png")
        one.image.save(paths[-1])
    return paths
