"""Pictures, by Pillow."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from typing import TYPE_CHECKING

from teva_data.errors import MissingExtraError
from teva_data.pieces import Media

from . import undecodable

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_PIXELS = 100_000_000
"""A picture of more is refused before it is decoded: a small file can hold one that fills the memory."""


def decode(media: Media, *, max_pixels: int = MAX_PIXELS) -> Image:
    """A picture in RGB, upright (EXIF orientation applied), transparency on white; the first of an animation.

    Args:
        media: where its bytes lie.
        max_pixels: width times height at most.

    Raises:
        MediaError: it cannot be read or decoded, or is larger than ``max_pixels``.
        MissingExtraError: Pillow is not installed.
    """
    with _reading(media):
        from PIL import Image, ImageOps

        picture = _opened(media, max_pixels)
        picture = ImageOps.exif_transpose(picture) or picture
        if picture.has_transparency_data:
            white = Image.new("RGBA", picture.size, "white")
            picture = Image.alpha_composite(white, picture.convert("RGBA"))
        return picture.convert("RGB")


def upright_size(media: Media, *, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Width and height of a picture as :func:`decode` gives it, from its header alone.

    Raises:
        MediaError: it cannot be read, or is larger than ``max_pixels``.
        MissingExtraError: Pillow is not installed.
    """
    with _reading(media):
        from PIL import ExifTags

        picture = _opened(media, max_pixels)
        width, height = picture.size
        turned = picture.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
        return (height, width) if turned else (width, height)


def _opened(media: Media, max_pixels: int) -> Image:
    """A picture whose header is read."""
    from PIL import Image

    large = f"At most {max_pixels:,} pixels are decoded; make it smaller"
    try:
        picture = Image.open(io.BytesIO(media.read()))
    except Image.DecompressionBombError as error:
        raise undecodable(media, error, large) from error
    width, height = picture.size
    if width * height > max_pixels:
        raise undecodable(media, f"{width} x {height} pixels", large)
    return picture


@contextlib.contextmanager
def _reading(media: Media) -> Iterator[None]:
    """Gives what Pillow raises an address."""
    try:
        yield
    except MissingExtraError:
        raise
    except ImportError as error:
        raise MissingExtraError("decoding images", "teva-data[image]") from error
    # Pillow's decoders raise whatever their format's code raises on damaged data.
    except (OSError, ValueError, SyntaxError, EOFError, KeyError, IndexError) as error:
        raise undecodable(media, error, "Is the file cut short or damaged?") from error
