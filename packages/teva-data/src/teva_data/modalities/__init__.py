"""Pictures, recordings and clips as arrays: decoded when they are asked for, in the worker that asks.

One module a modality, each with ``decode(media)``; their libraries come with extras of the same names.
"""

from __future__ import annotations

import importlib
import re
from typing import Any

from teva_data.errors import DataError, MediaError
from teva_data.pieces import KINDS, Media


def decode(media: Media) -> Any:
    """What a piece of media shows or sounds like, with the defaults of its modality's ``decode``.

    Returns:
        A ``PIL.Image.Image``, a :class:`.audio.Audio` or a :class:`.video.Video`.

    Raises:
        MediaError: it cannot be read or decoded; the file and the place in it are named.
        MissingExtraError: the modality's library is not installed.
    """
    if media.kind not in KINDS:
        raise DataError("unknown kind of media", file=media.path, found=media.kind, expected=", ".join(KINDS))
    return importlib.import_module(f".{media.kind}", __name__).decode(media)


def undecodable(media: Media, reason: object, hint: str | None = None) -> MediaError:
    """The error for media that a decoder refuses."""
    where = f" at byte {media.offset}" if media.offset else ""
    first = str(reason).strip().splitlines()[0] if str(reason).strip() else type(reason).__name__
    # Decoders name the object they read from, by an address that is another one each time.
    first = re.sub(r" ?<[\w.]+ object at 0x[0-9a-f]+>", "", first)
    # torchcodec's messages begin with where in its own sources they were raised.
    first = re.sub(r"^[\w]+, \S+:\d+, ", "", first).rstrip(".")
    return MediaError(f"the {media.kind}{where} cannot be decoded: {first}", file=media.path, hint=hint)
