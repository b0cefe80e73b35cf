"""Batches as token ids, prepared in the background while the model computes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from . import pictures
from .errors import DataError
from .plan import Batch, BatchPlan
from .prefetch import prefetch
from .recipe import Recipe
from .rendering import Renderer
from .store import CorpusStore, QueryStore


@dataclasses.dataclass(frozen=True)
class TokenBatch:
    """A process's part of a batch of the plan, with the token ids of its queries and documents."""

    batch: Batch
    query_ids: list[list[int]]
    document_ids: list[list[int]]

    @property
    def tokens(self) -> int:
        """Tokens in all, without padding."""
        return sum(map(len, self.query_ids)) + sum(map(len, self.document_ids))


class Feed:
    """Renders and tokenises the plan's batches.

    Args:
        plan: which examples each step has.
        renderer: how they become tokens.
        recipe: its limits of length.
        rank: which process's part of each batch.
        world: how many processes share it.
    """

    def __init__(self, plan: BatchPlan, renderer: Renderer, recipe: Recipe, rank: int = 0, world: int = 1) -> None:
        self.plan, self.renderer, self.recipe = plan, renderer, recipe
        self.rank, self.world = rank, world

    def batch(self, step: int) -> TokenBatch:
        """The process's part of one batch.

        Raises:
            DataError: a query or document has nothing that the model reads, or a picture cannot be read.
        """
        batch, model = self.plan.batch(step, self.rank, self.world), self.recipe.model
        self._expect_texts(batch)
        queries = [self.renderer.query(query.query_text, query.prompt, query.pieces) for query in batch.queries]
        documents = [
            self.renderer.document(document.document_text, document.title, prompt, document.pieces)
            for document, prompt in zip(batch.documents, batch.document_prompts, strict=True)
        ]
        query_ids = self.renderer.tokenize(queries, model.query_max_length)
        document_ids = self.renderer.tokenize(documents, model.document_max_length)
        # Here, in the background, and not while the model waits.
        pictures.load([*query_ids, *document_ids])
        return TokenBatch(batch, query_ids, document_ids)

    def batches(self, start: int, stop: int, ahead: int = 2) -> Iterator[TokenBatch]:
        """The batches of steps ``start`` to ``stop`` - 1, at most ``ahead`` of them waiting.

        An error of the background thread is raised here, at the step that it belongs to.
        """
        return prefetch(self.batch, start, stop, ahead=ahead)

    def _expect_texts(self, batch: Batch) -> None:
        """Refuse what has no text and no picture for the model: all such would be the same empty string to it."""
        seeing = self.renderer.pictures is not None
        for number, query in zip(batch.dataset.tolist(), batch.queries, strict=True):
            if not (query.query_text.strip() or (seeing and query.media)):
                part = self.plan.parts[number]
                raise _without_text("query", query.query_id, part.dataset.queries(part.split))
        for document in batch.documents:
            if not (document.document_text.strip() or document.title.strip() or (seeing and document.media)):
                corpora = [part.dataset.corpus for part in self.plan.parts]
                holding = (corpus for corpus in corpora if document in corpus.get(_row(corpus, document.docid)))
                raise _without_text("document", document.docid, next(holding))


def _without_text(role: str, name: str, store: CorpusStore | QueryStore) -> DataError:
    file, line = store.address(_row(store, name)[0])
    return DataError(
        f"a {role} without text", file=file, line=line, found=name, expected="a text",
        hint="This model reads text only; its media would go unseen",
    )  # fmt: skip


def _row(store: CorpusStore | QueryStore, name: str) -> list[int]:
    """The row of an id; none where it is unknown."""
    return [row for row in store.rows([name]).tolist() if row >= 0]
