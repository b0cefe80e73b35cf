"""Texts to vectors in memory: a model, its rendering, and batches by token budget."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from teva_data.artifact import ROLES, Artifact
from teva_data.batching import token_batches
from teva_data.errors import DataError, TevaError
from teva_data.pair import ArtifactPair, load_artifact
from teva_data.rendering import Renderer

from .engines import Engine, find_engine

BATCH_TOKENS = 16384
"""Tokens of one batch by default, counted as rows times the longest row."""

BATCH_ROWS = 1024
"""Rows of one batch at most by default."""


class Encoder:
    """A model ready to encode: renders, tokenises, batches, and restores the order.

    Args:
        artifact: the model's description.
        renderer: how its queries and documents become tokens.
        engine: what turns tokens into vectors.
        engine_name: the engine's entry point.
        dtype: what the engine computes in.
    """

    def __init__(
        self, artifact: Artifact, renderer: Renderer, engine: Engine, engine_name: str, dtype: str = "float32"
    ) -> None:
        self.artifact, self.renderer, self.engine = artifact, renderer, engine
        self.engine_name, self.dtype = engine_name, dtype

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

        Raises:
            ArtifactError: a directory that is not a model, or one whose layout cannot be reproduced.
            MissingExtraError: the engine's package is not installed.
        """
        found = find_engine(engine)
        model = load_artifact(name_or_path, revision=revision, token=token, offline=offline)

        def load(artifact: Artifact) -> Encoder:
            renderer = Renderer.from_artifact(
                artifact, query_prompt=query_prompt, document_prompt=document_prompt, max_length=max_length
            )
            return Encoder(artifact, renderer, found.load(artifact, device=device, dtype=dtype), engine, dtype)

        if isinstance(model, ArtifactPair):
            return load(model.of(role)) if role else EncoderPair(*(load(model.of(each)) for each in ROLES))
        return load(model)

    def of(self, role: str) -> Encoder:
        """What encodes a role: this encoder; a pair has one for each."""
        return self

    @property
    def dim(self) -> int:
        """Numbers in a vector."""
        return self.artifact.dim

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
        return self.encode_tokens(self.renderer.tokenize(rendered), batch_tokens=batch_tokens, batch_rows=batch_rows)

    def encode_tokens(
        self,
        token_ids: Sequence[Sequence[int]],
        *,
        batch_tokens: int = BATCH_TOKENS,
        batch_rows: int = BATCH_ROWS,
        on_batch: Callable[[int, int], None] | None = None,
    ) -> np.ndarray:
        """Encode token ids, in batches of similar length.

        Args:
            token_ids: N rows, special tokens included.
            batch_tokens: tokens of a batch, counted as rows times the longest row.
            batch_rows: rows of a batch at most.
            on_batch: called after each batch with its rows and its tokens (padding not counted).

        Returns:
            float32 [N, dim], in the order given.

        Raises:
            DataError: a row without a token.
            TevaError: the engine gave another shape or dtype.
        """
        if batch_tokens < 1 or batch_rows < 1:
            raise TevaError(f"batch_tokens and batch_rows start at 1; found {batch_tokens} and {batch_rows}")
        lengths = np.array([len(row) for row in token_ids], dtype=np.int64)
        if len(lengths) and not lengths.all():
            raise DataError(
                f"the text at position {int(lengths.argmin())} has no tokens",
                expected="at least one",
                hint="Give it some words, or leave it out",
            )
        vectors = np.empty((len(lengths), self.dim), dtype=np.float32)
        for rows in token_batches(lengths, batch_tokens, batch_rows):
            vectors[rows] = self._forward([token_ids[row] for row in rows])
            if on_batch is not None:
                on_batch(len(rows), int(lengths[rows].sum()))
        return vectors

    def _forward(self, token_ids: list[Sequence[int]]) -> np.ndarray:
        found = self.engine.encode(token_ids)
        if found.shape != (len(token_ids), self.dim) or found.dtype != np.float32:
            raise TevaError(
                f"the engine {self.engine_name!r} returned {found.dtype} {list(found.shape)}; "
                f"expected float32 [{len(token_ids)}, {self.dim}]"
            )
        return found

    def _document(self, item: Any) -> str:
        if isinstance(item, str):
            return self.renderer.document(item)
        if isinstance(item, tuple) and len(item) == 2 and all(isinstance(part, str) for part in item):
            return self.renderer.document(item[1], item[0])
        if hasattr(item, "document_text"):
            return self.renderer.document(item.document_text, item.title or "")
        raise TypeError(f"a document is a str, a pair (title, text) or a Document; found {type(item).__name__}")


class EncoderPair(Encoder):
    """Encoders of their own for queries and for documents, as one.

    Args:
        query: encodes queries.
        document: encodes documents.
    """

    def __init__(self, query: Encoder, document: Encoder) -> None:
        super().__init__(query.artifact, query.renderer, query.engine, query.engine_name, query.dtype)
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

    def encode_tokens(
        self,
        token_ids: Sequence[Sequence[int]],
        *,
        batch_tokens: int = BATCH_TOKENS,
        batch_rows: int = BATCH_ROWS,
        on_batch: Callable[[int, int], None] | None = None,
    ) -> np.ndarray:
        """Refused: tokens do not say whose they are.

        Raises:
            TevaError: always.
        """
        raise TevaError(
            "this model has two encoders, and a text does not say whose it is. Use encode_queries, encode_documents, "
            'or one of the two: of("query"), of("document")'
        )


def _refuse_str(texts: object) -> None:
    if isinstance(texts, str):
        # A str is a sequence of str: its letters would be encoded one by one.
        raise TypeError(f"expected a list of texts, found one str; write [{texts[:40]!r}]")
