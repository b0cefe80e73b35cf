"""Pictures, by Pillow."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from teva_data.errors import MissingExtraError
from teva_data.pieces import Media

from . import undecodable

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_PIXELS = 100_000_000
"""A picture of more is refused before it is decoded: a small file can hold one that fills the memory."""


def decode(media: Media, *, max_pixels: int = MAX_PIXELS) -> Image:
    """A picture in RGB, upright (EXIF orientation applied), transparency on white.

    Args:
        media: where its bytes lie.
        max_pixels: width times height at most.

    Raises:
        DataError: it cannot be read or decoded, or is larger than ``max_pixels``.
        MissingExtraError: Pillow is not installed.
    """
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise MissingExtraError("decoding images", "teva-data[image]") from error
    data = media.read()
    try:
        picture: Image.Image = Image.open(io.BytesIO(data))
        width, height = picture.size
        if width * height > max_pixels:
            raise undecodable(
                media, f"{width} x {height} pixels", f"At most {max_pixels:,} pixels are decoded; make it smaller"
            )
        picture = ImageOps.exif_transpose(picture) or picture
        if picture.has_transparency_data:
            white = Image.new("RGBA", picture.size, "white")
            picture = Image.alpha_composite(white, picture.convert("RGBA"))
        return picture.convert("RGB")
    # Pillow's decoders raise whatever their format's code raises on damaged data.
    except (OSError, ValueError, SyntaxError, EOFError, KeyError, IndexError, Image.DecompressionBombError) as error:
        raise undecodable(media, error, "Is the file cut short or damaged?") from error


def upright_size(media: Media, *, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Width and height of a picture as :func:`decode` gives it, from its header alone.

    Raises:
        DataError: it cannot be read, or is larger than ``max_pixels``.
        MissingExtraError: Pillow is not installed.
    """
    try:
        from PIL import ExifTags, Image
    except ImportError as error:
        raise MissingExtraError("decoding images", "teva-data[image]") from error
    try:
        picture: Image.Image = Image.open(io.BytesIO(media.read()))
        width, height = picture.size
        turned = picture.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
    except (OSError, ValueError, SyntaxError, EOFError, KeyError, IndexError, Image.DecompressionBombError) as error:
        raise undecodable(media, error, "Is the file cut short or damaged?") from error
    if width * height > max_pixels:
        raise undecodable(
            media, f"{width} x {height} pixels", f"At most {max_pixels:,} pixels are decoded; make it smaller"
        )
    return (height, width) if turned else (width, height)
