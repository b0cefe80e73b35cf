"""A training example as text for a terminal."""

from __future__ import annotations

import io
import json
import textwrap
from collections.abc import Iterator
from pathlib import Path

from teva_data.errors import DataError
from teva_data.pieces import Media
from teva_data.showing import TITLE_POLICY, Example, Rendered

from .pictures import Seen
from .tokens import Tokens

WIDTH = 100
SHOWN = 200
"""Characters shown of what is cut off."""
CUT = " ✂ "


def show_example(example: Example) -> str:
    """All of it."""
    lines = [f"{example.source}", *(f"a {role} is {policy}" for role, policy in TITLE_POLICY.items())]
    for each in (example.query, *example.documents):
        lines += ["", *_rendered(each)]
    positives, negatives = example.left_out
    if positives or negatives:
        lines += ["", f"and {positives:,} more positives, {negatives:,} more negatives (--documents shows them)"]
    return "\n".join(lines)


def _rendered(each: Rendered) -> Iterator[str]:
    score = "" if each.score is None else f", score {each.score:g}"
    yield f"{each.role} {each.identifier}{score}  ({each.file}:{each.line})"
    yield _entry("prompt", f"{_quoted(each.prompt)}, from {each.prompt_from}" if each.prompt else "none")
    for piece in each.pieces:
        yield _entry("piece", _media(piece) if isinstance(piece, Media) else f"text {_quoted(piece)}")
    for one in each.seen:
        yield _entry("seen" if one.frames else "heard", f"{Path(one.media.path).name} as {_cost(one)}")
    if each.tokens is None:
        yield _entry("text", _quoted(each.text))
        return
    first, last = each.tokens.span
    yield _entry("text", _quoted(each.text[first:last]))
    if each.tokens.cut:
        yield _entry("cut off", _cut(each.text, each.tokens))
    yield _entry("tokens", _tokens(each.tokens))


def _cost(one: Seen) -> str:
    (width, height), (rows, columns) = one.size, one.grid
    if not one.frames:
        return f"{width} frames of {height} mel bands, {one.tokens:,} tokens"
    each = f"{width} x {height} pixels, {rows} x {columns} patches"
    if one.media.kind == "image":
        return f"{each}, {one.tokens:,} tokens"
    heard = f", {one.sound:,} of them of its sound" if one.sound else ""
    return f"{one.frames} frames of {each}, one each {one.step:.2f} s, {one.tokens:,} tokens{heard}"


def _entry(name: str, text: str) -> str:
    return f"  {name:<8}{text}"


def _media(media: Media) -> str:
    length = media.length if media.length >= 0 else Path(media.path).stat().st_size - media.offset
    where = f"{media.path}, {length:,} bytes" + (f" from byte {media.offset:,} on" if media.offset else "")
    size = _size(media)
    return f"{media.kind} {where}" + (f", {size[0]} x {size[1]} pixels" if size else "")


def _size(media: Media) -> tuple[int, int] | None:
    """Width and height of a picture; None of other media, where it cannot be read, and where Pillow is missing."""
    if media.kind != "image":
        return None
    try:
        from PIL import Image

        with Image.open(io.BytesIO(media.read())) as picture:
            return picture.size
    except (ImportError, DataError, OSError, ValueError, SyntaxError):
        return None


def _cut(text: str, tokens: Tokens) -> str:
    first, last = tokens.span
    before, after = text[:first], text[last:]
    rest = f"{_quoted(before[-SHOWN:])}{CUT}" if before else f"{CUT.strip()} {_quoted(after[:SHOWN])}"
    gone = tokens.count - tokens.length
    return f"{gone:,} tokens, {len(before or after):,} of {len(text):,} characters: {rest.strip()}"


def _tokens(tokens: Tokens) -> str:
    special = sum(tokens.special)
    head = f"{tokens.length:,} of {tokens.count:,}, limit {tokens.limit:,}, {special:,} special"
    # Special tokens stand in angle brackets, so that a text that merely spells one is told apart.
    shown = [f"⟨{token}⟩" if ours else _visible(token) for token, ours in zip(tokens.kept, tokens.special, strict=True)]
    body = textwrap.fill(
        " ".join(shown), WIDTH, initial_indent=" " * 10, subsequent_indent=" " * 10, break_long_words=False,
        break_on_hyphens=False,
    )  # fmt: skip
    return f"{head}\n{body}"


def _quoted(text: str) -> str:
    """In quotes, so that white space at the ends is seen; line ends as escapes."""
    return json.dumps(text, ensure_ascii=False)


def _visible(token: str) -> str:
    return json.dumps(token, ensure_ascii=False)[1:-1].replace(" ", "␣")
