"""The tokens of one text, and where the limit cuts it."""

from __future__ import annotations

from dataclasses import dataclass

from teva_data.rendering import Renderer


@dataclass(frozen=True)
class Tokens:
    """What a tokenizer makes of a text.

    Attributes:
        kept: the tokens that the model gets, as the tokenizer names them, special ones included.
        special: of each, whether it is a special token.
        count: tokens of the whole text, special ones included.
        limit: tokens at most.
        span: first and last (not included) character of the text that is kept.
    """

    kept: list[str]
    special: list[bool]
    count: int
    limit: int
    span: tuple[int, int]

    @property
    def cut(self) -> bool:
        """Whether the limit takes something away."""
        return self.count > len(self.kept)


def tokens_of(renderer: Renderer, text: str, limit: int) -> Tokens:
    """The tokens of a rendered text, and where the limit cuts it."""
    limit = min(limit, renderer.max_length)
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
