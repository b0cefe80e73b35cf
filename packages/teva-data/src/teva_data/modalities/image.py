"""Pictures, by Pillow."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from teva_data.errors import MediaError, MissingExtraError
from teva_data.pieces import Media

from . import undecodable

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_PIXELS = 100_000_000
"""A picture of more is refused before it is decoded: a small file can hold one that fills the memory."""


def decode(media: Media, *, max_pixels: int = MAX_PIXELS) -> Image:
    """A picture in RGB, upright (EXIF orientation applied), transparency on white; the first of an animation.

    Grey of more than 8 bits is brought to 8: whole numbers above 255 are 16 bits of 0 to 65535, real numbers are from 0
    to 1, or where one is above that from 0 to 255.

    Args:
        media: where its bytes lie.
        max_pixels: width times height at most.

    Raises:
        MediaError: it cannot be read or decoded, is larger than ``max_pixels``, or its grey is of another range.
        MissingExtraError: Pillow is not installed.
    """
    with _reading(media):
        from PIL import Image, ImageOps

        picture = _opened(media, max_pixels)
        form = picture.format
        picture = ImageOps.exif_transpose(picture) or picture
        if picture.mode.startswith(("I", "F")):  # Pillow's conversion would clip all above 255
            picture = _in_bytes(media, picture, form)
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
        # Of a TIFF Pillow tells the size, and gives the pixels, upright already.
        turned = picture.format != "TIFF" and picture.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
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


def _in_bytes(media: Media, picture: Image, form: str | None) -> Image:
    """Grey of 16 bits, of whole or of real numbers, as grey of 8 bits; what its file calls transparent is white."""
    from PIL import Image

    values = np.asarray(picture)
    least, most = float(values.min()), float(values.max())
    if picture.mode == "F":
        top = 1.0 if most <= 1 else 255.0
    else:
        # A PGM of fewer than 16 bits comes as bytes, so that a dark one is still of 16.
        sixteen = picture.mode != "I" or form == "PPM" or most > 255
        top = 65535.0 if sixteen else 255.0
    if not (least >= 0 and most <= top):  # false for what is no number, too
        raise undecodable(
            media, f"grey from {least:g} to {most:g} (mode {picture.mode})",
            "Grey is read from 0 to 255 or 65535, real numbers from 0 to 1 or 255; save it so",
        )  # fmt: skip
    grey = np.rint(values * (255.0 / top)).astype(np.uint8)
    if isinstance(clear := picture.info.get("transparency"), int):
        grey[values == clear] = 255
    return Image.fromarray(grey)


@contextlib.contextmanager
def _reading(media: Media) -> Iterator[None]:
    """Gives what Pillow raises an address."""
    try:
        yield
    except (MissingExtraError, MediaError, MemoryError):
        raise
    except ImportError as error:
        raise MissingExtraError("decoding images", "teva-data[image]") from error
    # Pillow's decoders raise whatever their format's code raises on damaged data: AVIF's a bare RuntimeError, others
    # what struct and zlib raise.
    except Exception as error:
        raise undecodable(media, error, "Is the file cut short or damaged?") from error
