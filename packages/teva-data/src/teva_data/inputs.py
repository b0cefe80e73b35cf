"""Inputs of models that take more than text: rendered texts and token ids, and the media that some stand for."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from .errors import MediaError
from .pieces import Media

if TYPE_CHECKING:
    from .pictures import Picture, PictureReader

# Marks in a rendered text where a picture stands; whatever the model's own tokens are called.
PLACE = "\N{OBJECT REPLACEMENT CHARACTER}"
NOWHERE = Media("image", "")  # of a picture that was made and not read


class Rendered(str):
    """A rendered text with a ``PLACE`` for each of its pictures."""

    media: tuple[Media, ...]

    def __new__(cls, text: str, media: Sequence[Media]) -> Rendered:
        """Args: ``text``, and ``media``, one for each place in it."""
        self = super().__new__(cls, text)
        self.media = tuple(media)
        return self


class RenderedPieces(str):
    """A rendered record whose pieces are inputs of their own."""

    parts: tuple[str, ...]

    def __new__(cls, parts: Sequence[str]) -> RenderedPieces:
        """Args: ``parts``, each rendered; :class:`Rendered` where it has pictures."""
        self = super().__new__(cls, "\n".join(parts))
        self.parts = tuple(parts)
        return self


class Tokens(list[int]):
    """Token ids, and the pictures that some of them stand for.

    Patches take a thousand times a page's text: they are read when they are asked for, and kept after
    :func:`load_media` alone.

    Args:
        ids: with as many ids for each picture as it has tokens.
        media: the pictures, in order.
        reader: reads them.
    """

    def __init__(self, ids: Sequence[int], media: Sequence[Media], reader: PictureReader | None) -> None:
        super().__init__(ids)
        self.media, self.reader = tuple(media), reader
        self._kept: tuple[Picture, ...] | None = None

    @classmethod
    def of(cls, ids: Sequence[int], pictures: Sequence[Picture]) -> Tokens:
        """Token ids with pictures that come from no file."""
        self = cls(ids, [NOWHERE] * len(pictures), None)
        self._kept = tuple(pictures)
        return self

    @property
    def pictures(self) -> tuple[Picture, ...]:
        """The patches.

        Raises:
            DataError: a picture cannot be decoded.
        """
        return self._read() if self._kept is None else self._kept

    def keep(self, pictures: Mapping[Media, Picture]) -> None:
        """Keep the patches of its pictures."""
        self._kept = tuple(pictures[media] for media in self.media)

    def _read(self) -> tuple[Picture, ...]:
        assert self.reader is not None  # else they are kept from the beginning
        return tuple(self.reader.read(media) for media in self.media)


class Placed:
    """An input for a runtime that cuts pictures into patches by itself: one token stands where a picture is to be.

    Args:
        content: token ids, or a rendered text, with one pad token for each picture.
        media: the pictures, in order.
    """

    def __init__(self, content: list[int] | str, media: Sequence[Media]) -> None:
        self.content, self.media = content, tuple(media)

    @classmethod
    def of(cls, item: Tokens | Rendered, reader: PictureReader, pad: int) -> Placed:
        """What a model's tokens, or its rendered text, are to such a runtime.

        Args:
            item: with pictures.
            reader: of the model's pictures.
            pad: the id that stands for a part of a picture.
        """
        if isinstance(item, Rendered):
            return cls(filled(item, [reader.placed(media) for media in item.media]), item.media)
        return cls([one for at, one in enumerate(item) if one != pad or item[at - 1] != pad], item.media)

    def images(self) -> list[Any]:
        """The pictures, decoded by Pillow.

        Raises:
            DataError: one cannot be decoded.
        """
        from .modalities.image import decode

        return [decode(media) for media in self.media]


def filled(text: Rendered, written: Sequence[str]) -> str:
    """A rendered text with something in the place of each of its media."""
    parts = text.split(PLACE)
    assert len(parts) == len(written) + 1
    return parts[0] + "".join(one + part for one, part in zip(written, parts[1:], strict=True))


class PieceTokens(list[int]):
    """The token ids of a record whose pieces are inputs of their own, all in a row (:mod:`teva_data.merging`).

    Args:
        parts: the token ids of each piece.
    """

    def __init__(self, parts: Sequence[list[int]]) -> None:
        super().__init__(one for part in parts for one in part)
        self.parts = tuple(parts)


def load_media(
    inputs: Sequence[Sequence[int]], workers: int = 1, failed: dict[Media, MediaError] | None = None
) -> None:
    """Read the pictures of inputs of one model, where they have some, each once, and keep them.

    Args:
        inputs: token ids.
        workers: threads that decode; decoding and resizing run outside Python's lock.
        failed: gets the pictures that cannot be read, and why; inputs with such a one keep none. Where not given, the
            first of them is an error.

    Raises:
        MediaError: a picture cannot be read, and ``failed`` is not given.
    """
    parts = [part for each in inputs for part in (each.parts if isinstance(each, PieceTokens) else (each,))]
    seeing = [each for each in parts if isinstance(each, Tokens) and each.reader is not None]
    media = list(dict.fromkeys(one for each in seeing for one in each.media))
    if not media:
        return
    reader = seeing[0].reader
    assert reader is not None

    def read(one: Media) -> Picture | None:
        try:
            return reader.read(one)
        except MediaError as error:
            if failed is None:
                raise
            failed[one] = error
            return None

    if min(workers, len(media)) > 1:
        with ThreadPoolExecutor(min(workers, len(media)), thread_name_prefix="teva-pictures") as pool:
            pictures = list(pool.map(read, media))
    else:
        pictures = list(map(read, media))
    found = {one: picture for one, picture in zip(media, pictures, strict=True) if picture is not None}
    for each in seeing:
        if all(one in found for one in each.media):
            each.keep(found)


def decoders(given: int | None = None) -> int:
    """Threads that decode pictures: as given, else the cores that this process has for itself, at most 8."""
    # torchrun says how many processes share the machine.
    return given or max(1, min(8, (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", 1))))


def media_of(token_ids: Sequence[int]) -> tuple[Media, ...]:
    """The pictures of an input; none of plain ids."""
    if isinstance(token_ids, PieceTokens):
        return tuple(media for part in token_ids.parts for media in media_of(part))
    return token_ids.media if isinstance(token_ids, Tokens) else ()


def key_of(token_ids: Sequence[int]) -> tuple[Any, ...]:
    """What decides an input's vector: equal for two inputs that a model cannot tell apart."""
    if isinstance(token_ids, PieceTokens):
        return tuple(key_of(part) for part in token_ids.parts)
    return (*token_ids, *media_of(token_ids))
