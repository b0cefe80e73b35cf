"""Texts to vectors in memory: a model, its rendering, and batches by token budget."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from teva_data import merging
from teva_data.artifact import Artifact
from teva_data.batching import least_work_batches, token_batches
from teva_data.errors import DataError, EngineMemoryError, MediaError, TevaError
from teva_data.inputs import PieceTokens, Placed, Rendered, Tokens, decoders, load_media, media_of
from teva_data.layout import ROLES
from teva_data.pair import ArtifactPair, load_artifact
from teva_data.pieces import Media
from teva_data.prefetch import prefetch
from teva_data.rendering import Renderer

from .engines import Engine, load_engine

logger = logging.getLogger(__name__)

BATCH_TOKENS = 16384
"""Tokens of one batch by default, counted as rows times the longest row."""

BATCH_ROWS = 1024
"""Rows of one batch at most by default."""

STAND_IN = "."
"""What is encoded where a row is to be left out: an engine must be given something."""


class Encoder:
    """A model ready to encode: renders, tokenises, batches, and restores the order.

    Args:
        artifact: the model's description.
        renderer: how its queries and documents become tokens.
        engine: what turns tokens into vectors.
        engine_name: the engine's entry point.
        dtype: what the engine computes in.
        dim: numbers kept of each vector, the first ones; vectors that had length 1 have it again.
    """

    def __init__(
        self,
        artifact: Artifact,
        renderer: Renderer,
        engine: Engine,
        engine_name: str,
        dtype: str = "float32",
        dim: int | None = None,
    ) -> None:
        if dim is not None and not 0 < dim <= artifact.dim:
            raise TevaError(f"dim: found {dim}; expected 1 to {artifact.dim}, the numbers in a vector of this model")
        trained = artifact.matryoshka
        if dim not in (None, artifact.dim) and trained and dim not in trained:
            logger.warning("dim %d: this model was trained to be cut at %s", dim, ", ".join(map(str, trained)))
        self.artifact, self.renderer, self.engine = artifact, renderer, engine
        self.engine_name, self.dtype = engine_name, dtype
        self.dim = dim or artifact.dim
        # What a batch was once too large for is not tried again.
        self._most_tokens: float = float("inf")

    @classmethod
    def load(
        cls,
        name_or_path: str | Path,
        *,
        engine: str = "torch",
        revision: str | None = None,
        token: str | None = None,
        offline: bool = False,
        device: str = "auto",
        dtype: str = "float32",
        query_prompt: str | None = None,
        document_prompt: str | None = None,
        max_length: int | None = None,
        role: str | None = None,
        dim: int | None = None,
        engine_options: Mapping[str, Any] | None = None,
    ) -> Encoder:
        """Load a model.

        Args:
            name_or_path: an artifact of teva's, any sentence-transformers directory, or a hub id.
            engine: the entry point of an engine, e.g. "torch".
            revision: commit, tag or branch on the hub.
            token: the hub's access token; the one stored by `hf auth login` where not given.
            offline: use only what the hub's cache holds.
            device: "auto", "cpu", "cuda", "cuda:1", "mps".
            dtype: what the engine computes in: "float32", "bfloat16" or "float16".
            query_prompt: put before every query instead of the model's own; "" for none.
            document_prompt: put before every document instead of the model's own; "" for none.
            max_length: tokens, special ones included, instead of the model's own limit.
            role: of a pair of encoders, load the one for "query" or "document" alone; both where not given.
            dim: numbers kept of each vector, the first ones; vectors that had length 1 have it again.
            engine_options: the engine's own, e.g. ``{"url": "http://localhost:8000"}`` of the engine "http".

        Raises:
            ArtifactError: a directory that is not a model, or one whose layout cannot be reproduced.
            MissingExtraError: the engine's package is not installed.
            TevaError: an option that the engine does not have, or a dimension that the model does not have.
        """
        options = engine_options or {}
        model = load_artifact(name_or_path, revision=revision, token=token, offline=offline)

        def load(artifact: Artifact) -> Encoder:
            artifact.expect_whole()
            renderer = Renderer.from_artifact(
                artifact, query_prompt=query_prompt, document_prompt=document_prompt, max_length=max_length
            )
            loaded = load_engine(engine, artifact, device=device, dtype=dtype, options=options)
            return Encoder(artifact, renderer, loaded, engine, dtype, dim)

        if isinstance(model, ArtifactPair):
            return load(model.of(role)) if role else EncoderPair(*(load(model.of(each)) for each in ROLES))
        return load(model)

    def of(self, role: str) -> Encoder:
        """What encodes a role: this encoder; a pair has one for each."""
        return self

    def with_prompts(self, *, query: str | None = None, document: str | None = None) -> Encoder:
        """The same model with other prompts; those that are None stay as they are."""
        other, mine = copy.copy(self), self.renderer
        other.renderer = Renderer(
            mine.tokenizer,
            query_prompt=mine.query_prompt if query is None else query,
            document_prompt=mine.document_prompt if document is None else document,
            max_length=mine.max_length,
            lowercase=mine.lowercase,
            pictures=mine.pictures,
            merge=mine.merge,
        )
        return other

    def encode_queries(
        self, texts: Sequence[str], *, prompt: str | None = None, batch_tokens: int = BATCH_TOKENS
    ) -> np.ndarray:
        """Encode queries.

        Args:
            texts: the queries, without prompt.
            prompt: instead of the encoder's query prompt.
            batch_tokens: tokens of a batch, counted as rows times the longest row.

        Returns:
            float32 [len(texts), dim].

        Raises:
            TypeError: a str was given instead of a list of str.
            DataError: a text has no tokens.
        """
        _refuse_str(texts)
        return self.encode_texts([self.renderer.query(text, prompt) for text in texts], batch_tokens=batch_tokens)

    def encode_documents(self, documents: Sequence[Any], *, batch_tokens: int = BATCH_TOKENS) -> np.ndarray:
        """Encode documents.

        Args:
            documents: texts, pairs (title, text), or `teva_data` documents; title and text are joined as everywhere.
            batch_tokens: tokens of a batch, counted as rows times the longest row.

        Returns:
            float32 [len(documents), dim].

        Raises:
            TypeError: a str was given instead of a list of str, or an item is none of the three.
            DataError: a text has no tokens.
        """
        _refuse_str(documents)
        return self.encode_texts([self._document(item) for item in documents], batch_tokens=batch_tokens)

    def encode_texts(
        self, rendered: Sequence[str], *, batch_tokens: int = BATCH_TOKENS, batch_rows: int = BATCH_ROWS
    ) -> np.ndarray:
        """Encode texts that stand as the model is to see them, prompt included: float32 [len(rendered), dim]."""
        _refuse_str(rendered)
        token_ids = self.renderer.tokenize(rendered)
        return self.encode_rows(token_ids, rendered, batch_tokens=batch_tokens, batch_rows=batch_rows)

    def encode_tokens(
        self,
        token_ids: Sequence[Sequence[int]],
        *,
        batch_tokens: int = BATCH_TOKENS,
        batch_rows: int = BATCH_ROWS,
        on_batch: Callable[[int, int], None] | None = None,
    ) -> np.ndarray:
        """Encode token ids; arguments, result and errors are those of :meth:`encode_rows`."""
        return self.encode_rows(token_ids, batch_tokens=batch_tokens, batch_rows=batch_rows, on_batch=on_batch)

    def encode_rows(
        self,
        token_ids: Sequence[Sequence[int]],
        texts: Sequence[str] | None = None,
        *,
        batch_tokens: int = BATCH_TOKENS,
        batch_rows: int = BATCH_ROWS,
        on_batch: Callable[[int, int], None] | None = None,
        bad: dict[int, MediaError] | None = None,
    ) -> np.ndarray:
        """Encode rows in batches of similar length. A batch that does not fit in memory is tried in smaller ones.

        Rows whose pieces are inputs of their own get the mean of their pieces' vectors.

        Args:
            token_ids: N rows, special tokens included.
            texts: the rendered texts that they come from; needed by an engine that tokenises by itself.
            batch_tokens: tokens of a batch, counted as rows times the longest row.
            batch_rows: rows of a batch at most.
            on_batch: called after each batch with its rows and its tokens (padding not counted); of rows whose pieces
                are inputs of their own, as large a part of all rows as the batch holds of all pieces.
            bad: gets the positions of rows with a picture that cannot be read, and why; their vectors mean nothing.
                Where not given, the first of them is an error.

        Returns:
            float32 [N, dim], in the order given.

        Raises:
            DataError: a row without a token.
            MediaError: a picture cannot be read, and ``bad`` is not given.
            TevaError: the engine gave another shape or dtype, or needs texts and there are none.
            EngineMemoryError: one row alone does not fit.
        """
        if batch_tokens < 1 or batch_rows < 1:
            raise TevaError(f"batch_tokens and batch_rows start at 1; found {batch_tokens} and {batch_rows}")
        batch: dict[str, Any] = {"batch_tokens": batch_tokens, "batch_rows": batch_rows, "on_batch": on_batch}
        if not any(isinstance(row, PieceTokens) for row in token_ids):
            return self._rows(token_ids, texts, **batch, bad=bad, cut=True)
        parts, owners = merging.spread(token_ids)
        own, theirs = (None, owners) if texts is None else merging.spread(texts)
        if not np.array_equal(owners, theirs):
            raise TevaError("the token ids and the texts of a record are not of as many pieces")
        if on_batch is not None:
            batch["on_batch"] = _by_record(on_batch, len(token_ids), len(parts))
        failed: dict[int, MediaError] | None = None if bad is None else {}
        found = self._rows(parts, own, **batch, bad=failed, cut=False)
        for at, error in sorted((failed or {}).items()):
            assert bad is not None
            bad.setdefault(int(owners[at]), error)
        # Merged whole and cut then, as it was trained.
        return self._cut(merging.mean(found, owners, normalize=self.artifact.normalize))

    def _rows(
        self,
        token_ids: Sequence[Sequence[int]],
        texts: Sequence[str] | None,
        *,
        batch_tokens: int,
        batch_rows: int,
        on_batch: Callable[[int, int], None] | None,
        bad: dict[int, MediaError] | None,
        cut: bool,
    ) -> np.ndarray:
        """As :meth:`encode_rows`, of rows that are one input each; whole vectors where not ``cut``."""
        lengths = np.array([len(row) for row in token_ids], dtype=np.int64)
        if len(lengths) and not lengths.all():
            raise DataError(
                f"the text at position {int(lengths.argmin())} has no tokens",
                expected="at least one",
                hint="Give it some words, or leave it out",
            )
        inputs: Sequence[Any] | None = texts if getattr(self.engine, "inputs", "tokens") == "texts" else token_ids
        if inputs is None:
            raise TevaError(f"the engine {self.engine_name!r} reads texts, not token ids. Use encode_texts")
        vectors = np.empty((len(lengths), self.dim if cut else self.artifact.dim), dtype=np.float32)
        rows = np.arange(len(lengths))
        while len(rows):
            batches = self._batches(lengths, rows, batch_tokens, batch_rows)
            done = 0
            try:
                for found in self._forward(self._loaded(inputs, batches, bad)):
                    whole = self._checked(found, len(batches[done]))
                    vectors[batches[done]] = self._cut(whole) if cut else whole
                    if on_batch is not None:
                        on_batch(len(batches[done]), int(lengths[batches[done]].sum()))
                    done += 1
            except EngineMemoryError as error:
                self._halve(lengths[batches[done]], error)
            rows = np.concatenate([np.empty(0, np.int64), *batches[done:]])
        return vectors

    def _loaded(
        self, inputs: Sequence[Any], batches: Sequence[np.ndarray], bad: dict[int, MediaError] | None
    ) -> Iterator[list[Any]]:
        """Batches in order; pictures are decoded in threads while the batch before is computed."""
        if not any(isinstance(each, Tokens | Rendered) for each in inputs):
            return ([inputs[row] for row in batch] for batch in batches)
        takes = getattr(self.engine, "pictures", False)
        if not takes:
            several = " on several devices at once" if hasattr(self.engine, "parallel") else ""
            raise TevaError(
                f"the engine {self.engine_name!r} takes no pictures{several}. Use --engine torch and one device, or "
                "vllm"
            )
        if takes == "placed":
            if self.renderer.pictures is not None and self.renderer.pictures.apart:
                raise TevaError(
                    f"the engine {self.engine_name!r} takes no pictures of a model with two towers. Use --engine torch"
                )
            return ([self._placed(inputs, int(row), bad) for row in batch] for batch in batches)
        return _decoded(inputs, batches, bad)

    def _placed(self, inputs: Sequence[Any], row: int, bad: dict[int, MediaError] | None) -> Any:
        """An input for an engine that cuts pictures into patches by itself."""
        item, reader = inputs[row], self.renderer.pictures
        if reader is None or not isinstance(item, Tokens | Rendered):
            return item
        if other := next((media for media in item.media if media.kind != "image"), None):
            raise TevaError(
                f"{other.path}: the engine {self.engine_name!r} is given pictures alone; found a piece of "
                f"{other.kind}. Use --engine torch"
            )
        placed = Placed.of(item, reader, self.renderer.tokenizer.convert_tokens_to_ids(reader.pad))
        if bad is not None:
            try:
                placed.images()  # once more than the engine does: it knows no other way out than to end
            except MediaError as error:
                bad[row] = error
                return STAND_IN if isinstance(item, Rendered) else self.renderer.tokenize([STAND_IN])[0]
        return placed

    def close(self) -> None:
        """Let go of what the engine holds: its processes, its threads."""
        if hasattr(self.engine, "close"):
            self.engine.close()

    def _batches(self, lengths: np.ndarray, rows: np.ndarray, batch_tokens: int, batch_rows: int) -> list[np.ndarray]:
        """Positions of each batch, which together are ``rows``."""
        limit = self._most_tokens
        if getattr(self.engine, "schedules", False) and limit == float("inf"):
            # The longest first here too: then the last ones that the engine works on are short.
            return [rows[part] for part in token_batches(lengths[rows], 2**62, batch_rows)]
        bound, pass_tokens = int(min(batch_tokens, limit)), getattr(self.engine, "pass_tokens", None)
        if pass_tokens is None:
            return [rows[part] for part in token_batches(lengths[rows], bound, batch_rows)]
        return [rows[part] for part in least_work_batches(lengths[rows], bound, pass_tokens, batch_rows)]

    def _forward(self, batches: Iterable[list[Any]]) -> Iterator[np.ndarray]:
        if hasattr(self.engine, "stream"):
            yield from self.engine.stream(batches)
        else:
            for batch in batches:
                yield self.engine.encode(batch)

    def _checked(self, found: np.ndarray, rows: int) -> np.ndarray:
        if found.shape != (rows, self.artifact.dim) or found.dtype != np.float32:
            raise TevaError(
                f"the engine {self.engine_name!r} returned {found.dtype} {list(found.shape)}; "
                f"expected float32 [{rows}, {self.artifact.dim}]"
            )
        return found

    def _cut(self, vectors: np.ndarray) -> np.ndarray:
        """The first ``dim`` numbers; a cut vector is no longer of length 1, so it is made so again."""
        if self.dim == self.artifact.dim:
            return vectors
        cut = vectors[:, : self.dim]
        if self.artifact.normalize:
            norms = np.linalg.norm(cut, axis=1, keepdims=True)
            # One that is zero here is named by whoever stores it.
            cut = np.divide(cut, norms, out=np.zeros_like(cut), where=norms != 0)
        return cut

    def _halve(self, lengths: np.ndarray, error: EngineMemoryError) -> None:
        """Make later batches half as large as the one that did not fit."""
        size = len(lengths) * int(lengths.max())
        if len(lengths) == 1:
            raise EngineMemoryError(
                f"{error}. One text of {size} tokens does not fit by itself: lower max_length (--max-length)"
            ) from error
        self._most_tokens = size // 2
        logger.warning("out of memory with %d texts of up to %d tokens; from now on batches have at most %d tokens",
                       len(lengths), int(lengths.max()), self._most_tokens)  # fmt: skip

    def _document(self, item: Any) -> str:
        if isinstance(item, str):
            return self.renderer.document(item)
        if isinstance(item, tuple) and len(item) == 2 and all(isinstance(part, str) for part in item):
            return self.renderer.document(item[1], item[0])
        if hasattr(item, "document_text"):
            return self.renderer.document(item.document_text, item.title or "", None, item.pieces)
        raise TypeError(f"a document is a str, a pair (title, text) or a Document; found {type(item).__name__}")


class EncoderPair(Encoder):
    """Encoders of their own for queries and for documents, as one.

    Args:
        query: encodes queries.
        document: encodes documents.
    """

    def __init__(self, query: Encoder, document: Encoder) -> None:
        super().__init__(query.artifact, query.renderer, query.engine, query.engine_name, query.dtype, query.dim)
        self.query, self.document = query, document

    def of(self, role: str) -> Encoder:
        """What encodes a role."""
        return self.query if role == "query" else self.document

    def encode_queries(
        self, texts: Sequence[str], *, prompt: str | None = None, batch_tokens: int = BATCH_TOKENS
    ) -> np.ndarray:
        """As :meth:`Encoder.encode_queries`, by the queries' encoder."""
        return self.query.encode_queries(texts, prompt=prompt, batch_tokens=batch_tokens)

    def encode_documents(self, documents: Sequence[Any], *, batch_tokens: int = BATCH_TOKENS) -> np.ndarray:
        """As :meth:`Encoder.encode_documents`, by the documents' encoder."""
        return self.document.encode_documents(documents, batch_tokens=batch_tokens)

    def with_prompts(self, *, query: str | None = None, document: str | None = None) -> Encoder:
        """As :meth:`Encoder.with_prompts`, of both."""
        return EncoderPair(*(each.with_prompts(query=query, document=document) for each in (self.query, self.document)))

    def encode_rows(self, *_: object, **__: object) -> np.ndarray:
        """Refused: tokens do not say whose they are.

        Raises:
            TevaError: always.
        """
        raise TevaError(
            "this model has two encoders, and a text does not say whose it is. Use encode_queries, encode_documents, "
            'or one of the two: of("query"), of("document")'
        )

    def close(self) -> None:
        """Let go of what both engines hold."""
        self.query.close()
        self.document.close()


def _by_record(on_batch: Callable[[int, int], None], records: int, pieces: int) -> Callable[[int, int], None]:
    """Call ``on_batch`` with records where batches hold their pieces; in the end it was told of all records."""
    done = 0

    def told(seen: int, tokens: int) -> None:
        nonlocal done
        before, done = done, done + seen
        on_batch(done * records // pieces - before * records // pieces, tokens)

    return told


def _decoded(
    inputs: Sequence[Any], batches: Sequence[np.ndarray], bad: dict[int, MediaError] | None
) -> Iterator[list[Any]]:
    """Batches in order, their pictures decoded: of one batch by several threads, while the one before is computed.

    A batch's patches are hundreds of megabytes, so no more than one waits.
    """

    def load(number: int) -> list[Any]:
        rows = [copy.copy(inputs[row]) for row in batches[number]]  # so that pictures go when the batch goes
        failed: dict[Media, MediaError] = {}
        load_media(rows, decoders(), None if bad is None else failed)
        if failed and bad is not None:
            for place, row in enumerate(batches[number].tolist()):
                errors = [failed[media] for media in media_of(rows[place]) if media in failed]
                if errors:
                    bad[row], rows[place] = errors[0], [0]  # any token at all: its vector is not kept
        return rows

    return prefetch(load, 0, len(batches), ahead=1)


def _refuse_str(texts: object) -> None:
    if isinstance(texts, str):
        # A str is a sequence of str: its letters would be encoded one by one.
        raise TypeError(f"expected a list of texts, found one str; write [{texts[:40]!r}]")
