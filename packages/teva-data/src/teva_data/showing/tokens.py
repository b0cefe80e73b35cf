"""The tokens of one text, and where the limit cuts it."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from teva_data.inputs import Rendered, RenderedPieces
from teva_data.rendering import Renderer

_NAMES = {"image": "picture", "video": "clip", "audio": "recording"}


@dataclass(frozen=True)
class Tokens:
    """What a tokenizer makes of a text.

    Attributes:
        kept: the tokens that the model gets, as the tokenizer names them, special ones included.
        special: of each, whether it is a special token.
        count: tokens of the whole text, special ones included.
        limit: tokens at most.
        span: first and last (not included) character of the text that is kept.
        pictured: tokens of media beside those that each is shown as.
    """

    kept: list[str]
    special: list[bool]
    count: int
    limit: int
    span: tuple[int, int]
    pictured: int = 0

    @property
    def cut(self) -> bool:
        """Whether the limit takes something away."""
        return self.count > self.length

    @property
    def length(self) -> int:
        """Tokens that the model gets."""
        return len(self.kept) + self.pictured


def tokens_of(renderer: Renderer, text: str, limit: int) -> Tokens:
    """The tokens of a rendered text, and where the limit cuts it.

    A picture's tokens are shown as one, with how many there are. Of pieces that are inputs of their own all tokens are
    shown, one input's after another's.
    """
    limit = min(limit, renderer.max_length)
    if isinstance(text, RenderedPieces):
        parts = [tokens_of(renderer, part, limit) for part in text.parts]
        kept = [token for part in parts for token in part.kept]
        special = [ours for part in parts for ours in part.special]
        pictured = sum(part.pictured for part in parts)
        return Tokens(kept, special, sum(part.count for part in parts), limit, (0, len(text)), pictured)
    if isinstance(text, Rendered):
        return _with_pictures(renderer, text, limit)
    encoded = renderer.tokenizer(
        text, truncation=True, max_length=limit, return_offsets_mapping=True, return_special_tokens_mask=True
    )
    special = [bool(each) for each in encoded["special_tokens_mask"]]
    spans = [span for span, ours in zip(encoded["offset_mapping"], special, strict=True) if not ours]
    span = (min(first for first, _ in spans), max(last for _, last in spans)) if spans else (0, 0)
    (count,) = renderer.lengths([text])
    if count <= len(special):
        span = (0, len(text))  # white space at the ends belongs to no token, and is not cut either
    elif renderer.tokenizer.truncation_side == "left":
        span = (span[0], len(text))
    else:
        span = (0, span[1])
    return Tokens(renderer.tokenizer.convert_ids_to_tokens(encoded["input_ids"]), special, count, limit, span)


def _with_pictures(renderer: Renderer, text: Rendered, limit: int) -> Tokens:
    reader = renderer.pictures
    assert reader is not None
    (count,), (ids,) = renderer.lengths([text]), renderer.tokenize([text], limit)
    if reader.apart:
        return Tokens([f"{_NAMES[text.media[0].kind]} x {count}"], [True], count, limit, (0, len(text)), count - 1)
    named, known = renderer.tokenizer.convert_ids_to_tokens(list(ids)), set(renderer.tokenizer.all_special_tokens)
    # A run of one token stands for a picture, a clip, a recording, or a part of the latter two.
    kept = list[str]()
    for token, run in itertools.groupby(named):
        many = len(list(run))
        kept += [f"{token} x {many}"] if token in reader.pads else [token] * many
    special = [token in known or token.startswith(reader.pads) for token in kept]
    return Tokens(kept, special, count, limit, (0, len(text)), len(named) - len(kept))
