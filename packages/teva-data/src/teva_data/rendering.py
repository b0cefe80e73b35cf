"""From records to tokens: prompt, title, text, truncation and special tokens, in one place.

Training, encoding, every engine and the parity gate go through this module, so that a text has one rendering.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import merging
from .artifact import Artifact
from .chat import add_chat, frame
from .errors import ArtifactError, DataError, MissingExtraError
from .inputs import PLACE, PieceTokens, Rendered, RenderedPieces, Tokens, filled
from .merging import Merging
from .pictures import PictureReader
from .pieces import Media, Piece
from .records import join_title


class Renderer:
    """Turns queries and documents into the strings and token ids that a model sees.

    Args:
        tokenizer: a fast tokenizer of transformers.
        query_prompt: put before every query that has no prompt of its own.
        document_prompt: put before every document that has no prompt of its own.
        max_length: tokens at most, special tokens included.
        lowercase: lower-case the text first (``do_lower_case`` of older sentence-transformers models).
        pictures: reads pictures for a model that sees them.
        merge: what is made of a record of several pieces (:mod:`teva_data.merging`).
    """

    def __init__(
        self,
        tokenizer: Any,
        *,
        query_prompt: str = "",
        document_prompt: str = "",
        max_length: int,
        lowercase: bool = False,
        pictures: PictureReader | None = None,
        merge: Merging = "sequence",
    ) -> None:
        special = tokenizer.num_special_tokens_to_add()
        if max_length <= special:
            raise ArtifactError(
                f"max_length: found {max_length}; expected more than the {special} special tokens that this tokenizer "
                "adds to every text"
            )
        self.tokenizer = tokenizer
        self.query_prompt, self.document_prompt = query_prompt, document_prompt
        self.max_length, self.lowercase, self.pictures, self.merge = max_length, lowercase, pictures, merge

    @classmethod
    def from_artifact(
        cls,
        artifact: Artifact,
        *,
        query_prompt: str | None = None,
        document_prompt: str | None = None,
        max_length: int | None = None,
        append_eos: bool = False,
        min_pixels: int | None = None,
        max_pixels: int | None = None,
        media: Mapping[str, Any] | None = None,
        merge: Merging | None = None,
        chat: bool = False,
    ) -> Renderer:
        """The rendering that an artifact asks for; prompts, limits (``media``: of clips and sounds) and merging can be
        replaced.

        ``append_eos`` makes the tokenizer end every text with the end-of-sequence token (:func:`ends_with_special`),
        which its files then say when they are saved; likewise ``chat`` puts every text into a message of the model's
        chat template (:mod:`teva_data.chat`).
        """
        tokenizer = load_tokenizer(artifact)
        if append_eos:
            add_eos(tokenizer)
        if chat:
            add_chat(tokenizer)
        return cls(
            tokenizer,
            query_prompt=artifact.prompts["query"] if query_prompt is None else query_prompt,
            document_prompt=artifact.prompts["document"] if document_prompt is None else document_prompt,
            max_length=max_length or artifact.max_length,
            lowercase=artifact.lowercase,
            pictures=PictureReader.from_artifact(artifact, tokenizer, min_pixels, max_pixels, media),
            merge=merge or artifact.merging,
        )

    def query(self, text: str, prompt: str | None = None, pieces: Sequence[Piece] = ()) -> str:
        """``prompt + text``; ``prompt`` is the query's own where it has one, else the renderer's.

        ``pieces``, where the query has pictures, stand in the text's place, in their order (:class:`Rendered`), or are
        inputs of their own (:class:`RenderedPieces`).
        """
        return self._joined(self.query_prompt if prompt is None else prompt, "", text, pieces)

    def document(self, text: str, title: str = "", prompt: str | None = None, pieces: Sequence[Piece] = ()) -> str:
        """``prompt + title + " " + text``, as BEIR and MTEB join them; without the space where one is empty.

        ``prompt`` is the document's own where it has one, else the renderer's. ``pieces``, where the document has
        pictures, stand in the text's place, in their order (:class:`Rendered`), or are inputs of their own
        (:class:`RenderedPieces`).
        """
        return self._joined(self.document_prompt if prompt is None else prompt, title, text, pieces)

    def _joined(self, prompt: str, title: str, text: str, pieces: Sequence[Piece]) -> str:
        seen = [piece for piece in pieces if isinstance(piece, str) or self.pictures]
        media = [piece for piece in seen if isinstance(piece, Media)]
        apart = bool(media) and self.pictures is not None and self.pictures.apart
        if not media and (self.merge == "sequence" or len(seen) < 2):
            return self._unmarked(self._cased(prompt + join_title(title, text)))
        prompt, title = self._unplaced(prompt), self._unplaced(title)
        found = [piece if isinstance(piece, Media) else self._unplaced(piece) for piece in seen]
        if apart or self.merge != "sequence":
            return merging.rendered(prompt, title, found, self.merge, apart=apart)
        parts = [PLACE if isinstance(piece, Media) else piece for piece in found]
        return Rendered(prompt + join_title(title, _spaced(parts)), media)

    def _unplaced(self, text: str) -> str:
        """The text without marks: one that stands for no picture would take another's."""
        return self._unmarked(self._cased(text.replace(PLACE, " ")))

    def _unmarked(self, text: str) -> str:
        """The text without what the model's tokenizer would take for a part of a picture, a clip or a sound.

        A page about a model may well say ``<|image_pad|>``: broken up, it is the words that it is. Whatever stands
        beside it would be shifted by it, or the pass would fail.
        """
        for mark in () if self.pictures is None or self.pictures.apart else self.pictures.fixed:
            if mark in text:
                text = text.replace(mark, f"{mark[:1]} {mark[1:]}")
        return text

    def tokenize(self, texts: Sequence[str], max_length: int | None = None) -> list[list[int]]:
        """Token ids of rendered texts, special tokens included, cut to ``max_length`` (default: the renderer's).

        The work is done by the tokenizer's own threads, outside Python's lock. A text with pictures
        (:class:`Rendered`) becomes :class:`Tokens`: text is cut, from its end, and pictures are not. Of a text whose
        pieces are inputs of their own (:class:`RenderedPieces`) each piece has the limit for itself.

        Raises:
            DataError: a picture cannot be read, or an input's pictures alone are more than ``max_length``.
        """
        if not texts:
            return []
        if any(isinstance(text, RenderedPieces) for text in texts):
            parts, owners = merging.spread(texts)
            return _gathered(self.tokenize(parts, max_length), owners, texts)
        places = [at for at, text in enumerate(texts) if isinstance(text, Rendered)]
        if places:
            limit, seen = min(max_length or self.max_length, self.max_length), set(places)
            plain = iter(self.tokenize([text for at, text in enumerate(texts) if at not in seen], max_length))
            return [self._with_pictures(text, limit) if isinstance(text, Rendered) else next(plain) for text in texts]
        encoded = self.tokenizer(
            list(texts),
            truncation=True,
            max_length=min(max_length or self.max_length, self.max_length),
            return_attention_mask=False,
            return_token_type_ids=False,
        )
        ids: list[list[int]] = encoded["input_ids"]
        return ids

    def lengths(self, texts: Sequence[str]) -> list[int]:
        """Tokens of rendered texts, special ones included, as if nothing were cut."""
        if not texts:
            return []
        if any(isinstance(text, RenderedPieces) for text in texts):
            parts, owners = merging.spread(texts)
            return [int(one) for one in np.bincount(owners, self.lengths(parts), len(texts))]
        if self.pictures is not None and self.pictures.apart and any(isinstance(text, Rendered) for text in texts):
            seen = [sum(map(self.pictures.count, text.media)) if isinstance(text, Rendered) else 0 for text in texts]
            plain = iter(self.lengths([text for text in texts if not isinstance(text, Rendered)]))
            return [count or next(plain) for count in seen]
        texts = [self._counted(text) if isinstance(text, Rendered) else text for text in texts]
        encoded = self.tokenizer(
            list(texts),
            truncation=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )
        return list(map(len, encoded["input_ids"]))

    def _cased(self, text: str) -> str:
        return text.lower() if self.lowercase else text

    def _counted(self, text: Rendered) -> str:
        """A text whose pictures are as many tokens as the model takes them for, from their files' headers."""
        assert self.pictures is not None
        return filled(text, [self.pictures.written(media) for media in text.media])

    def _with_pictures(self, text: Rendered, limit: int) -> Tokens:
        """Ids of at most ``limit`` tokens; the pictures are not decoded yet."""
        reader = self.pictures
        assert reader is not None
        counts = [reader.count(media) for media in text.media]
        if reader.apart:
            # No token of the text stands for it: as many ids as it costs, whatever they are.
            return Tokens([0] * sum(counts), text.media, reader)
        written = filled(text, [reader.written(media) for media in text.media])
        before, after = self._frame
        ids: list[int] = self.tokenizer(written, add_special_tokens=False, verbose=False)["input_ids"]
        pads = set(self.tokenizer.convert_tokens_to_ids(list(reader.pads)))
        held = sum(one in pads for one in ids)
        if held != sum(counts):
            what = "a picture" if reader.kinds == ("image",) else "media"
            raise DataError(
                f"the text holds {' or '.join(reader.pads)}, which stands for {what}", file=text.media[0].path,
                found=f"{held} such tokens", expected=f"the {sum(counts)} of {_named(text.media)}",
            )  # fmt: skip
        fixed = set(self.tokenizer.convert_tokens_to_ids(list(reader.fixed)))
        most = limit - len(before) - len(after)
        if sum(one in fixed for one in ids) > most:
            raise DataError(
                f"{_kinds(text.media)} of more tokens than an input may have", file=text.media[0].path,
                found=f"{sum(counts)} tokens of {_named(text.media)}", expected=f"at most {most}",
                hint=f"Lower {_limits(text.media)}, or raise the limit of length",
            )  # fmt: skip
        return Tokens([*before, *_cut(ids, most, fixed), *after], text.media, reader)

    @functools.cached_property
    def _frame(self) -> tuple[list[int], list[int]]:
        """The ids that the tokenizer puts before and behind every text."""
        return frame(self.tokenizer)


def _gathered(ids: list[list[int]], owners: NDArray[np.int64], texts: Sequence[str]) -> list[list[int]]:
    """The ids of pieces, those of one record together; a record that is one input stays as it is."""
    ends = np.cumsum(np.bincount(owners, minlength=len(texts)))
    return [
        PieceTokens(ids[end - len(text.parts) : end]) if isinstance(text, RenderedPieces) else ids[end - 1]
        for text, end in zip(texts, ends.tolist(), strict=True)
    ]


_KINDS = {"image": "pictures", "video": "clips", "audio": "recordings"}
_LIMITS = {
    "image": "model.max_pixels", "video": "model.video_frames or model.video_pixels", "audio": "model.audio_seconds",
}  # fmt: skip


def _kinds(media: Sequence[Media]) -> str:
    return " and ".join(dict.fromkeys(_KINDS[one.kind] for one in media))


def _named(media: Sequence[Media]) -> str:
    return f"{len(media)} {_kinds(media)}"


def _limits(media: Sequence[Media]) -> str:
    return ", ".join(dict.fromkeys(_LIMITS[one.kind] for one in media))


def _spaced(parts: Sequence[str]) -> str:
    """Pieces as one text: a space between two texts, nothing beside a picture."""
    joined = ""
    for part in parts:
        joined += f" {part}" if joined and part and PLACE not in (joined[-1], part) else part
    return joined


def _cut(ids: list[int], most: int, fixed: set[int]) -> list[int]:
    """At most ``most`` ids: the last of the others than ``fixed`` are left out."""
    over = len(ids) - most
    kept = []
    for one in reversed(ids):
        if over > 0 and one not in fixed:
            over -= 1
        else:
            kept.append(one)
    return kept[::-1]


def load_tokenizer(artifact: Artifact) -> Any:
    """The fast tokenizer in an artifact's directory.

    Raises:
        ArtifactError: its files cannot be read, or there is only a slow one.
    """
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise MissingExtraError("tokenising", "teva-data[inputs]") from error
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(artifact.path), local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{artifact.path}: the tokenizer cannot be loaded: {error}") from error
    if not tokenizer.is_fast:
        raise ArtifactError(f"{artifact.path}: found a tokenizer without tokenizer.json; expected a fast tokenizer")
    return tokenizer


def ends_with_special(tokenizer: Any) -> bool:
    """Whether a tokenizer puts a token of its own (EOS, [SEP]) behind every text."""
    bare: list[int] = tokenizer("a", add_special_tokens=False)["input_ids"]
    whole: list[int] = tokenizer("a")["input_ids"]
    if not bare:
        # The text is nothing to this tokenizer: what stands there is all its own, and may be a BOS.
        return bool(whole) and whole[-1] in (tokenizer.eos_token_id, tokenizer.sep_token_id)
    return whole[-len(bare) :] != bare


def add_eos(tokenizer: Any) -> bool:
    """Make a fast tokenizer put EOS behind every text, where it puts nothing there yet.

    It goes into the post-processor of ``tokenizer.json``, so that every runtime that reads that file does the same, and
    truncation leaves it the last. Calling code that appends it would be forgotten by the next runtime.

    Returns:
        Whether something was changed.

    Raises:
        ArtifactError: it has no EOS.
    """
    if ends_with_special(tokenizer):
        return False
    if tokenizer.eos_token is None:
        raise ArtifactError(
            f"{tokenizer.name_or_path}: the tokenizer has no eos_token; expected one, to stand behind every text. Set "
            "it in tokenizer_config.json, or model.append_eos: false"
        )
    from tokenizers import Tokenizer

    backend = tokenizer.backend_tokenizer
    whole = json.loads(backend.to_str())
    whole["post_processor"] = _with_eos(whole.get("post_processor"), tokenizer.eos_token, tokenizer.eos_token_id)
    backend.post_processor = Tokenizer.from_str(json.dumps(whole)).post_processor
    return True


def _with_eos(processor: dict[str, Any] | None, token: str, token_id: int) -> dict[str, Any]:
    """A post-processor of ``tokenizer.json`` that ends each text with a token."""
    if processor is not None and processor["type"] == "Sequence":
        *before, last = processor["processors"]
        if last["type"] == "TemplateProcessing":
            return {**processor, "processors": [*before, _with_eos(last, token, token_id)]}
        return {**processor, "processors": [*before, last, _with_eos(None, token, token_id)]}
    if processor is not None and processor["type"] != "TemplateProcessing":
        return {"type": "Sequence", "processors": [processor, _with_eos(None, token, token_id)]}
    first, second = ({"Sequence": {"id": name, "type_id": kind}} for name, kind in (("A", 0), ("B", 1)))
    template = processor or {
        "type": "TemplateProcessing", "single": [first], "pair": [first, second], "special_tokens": {},
    }  # fmt: skip
    end = {"SpecialToken": {"id": token, "type_id": 0}}
    return {
        **template,
        "single": [*template["single"], end],
        "pair": [*template["pair"], {"SpecialToken": {"id": token, "type_id": 1}}],
        "special_tokens": {**template["special_tokens"], token: {"id": token, "ids": [token_id], "tokens": [token]}},
    }
