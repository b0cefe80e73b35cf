"""Batches as token ids, prepared in the background while the model computes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from .errors import DataError, MediaError
from .inputs import decoders
from .leaving_out import Kept, read_inputs
from .plan import Batch, BatchPlan
from .prefetch import prefetch
from .recipe import Recipe
from .rendering import Renderer
from .store import CorpusStore, QueryStore


@dataclasses.dataclass(frozen=True)
class TokenBatch:
    """A process's part of a batch of the plan, with the token ids of its queries and documents.

    Attributes:
        batch: what it is of.
        query_ids: of each own query.
        document_ids: of each own document.
        bad: places among the own queries, and among the own documents, of records with a picture that cannot be read,
            and why; a token of padding stands there. Only where the recipe leaves them out.
        kept: what the loss is of, where all processes together leave something out.
    """

    batch: Batch
    query_ids: list[list[int]]
    document_ids: list[list[int]]
    bad: tuple[dict[int, MediaError], dict[int, MediaError]] = dataclasses.field(default_factory=lambda: ({}, {}))
    kept: Kept | None = None

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
            DataError: a query or document has nothing that the model reads.
            MediaError: a picture cannot be read, and is not to be left out.
        """
        batch, model, data = self.plan.batch(step, self.rank, self.world), self.recipe.model, self.recipe.data
        self._expect_texts(batch)
        queries = [self.renderer.query(query.query_text, query.prompt, query.pieces) for query in batch.queries]
        documents = [
            self.renderer.document(document.document_text, document.title, prompt, document.pieces)
            for document, prompt in zip(batch.documents, batch.document_prompts, strict=True)
        ]
        bad: tuple[dict[int, MediaError], dict[int, MediaError]] = ({}, {})
        # Pictures are decoded here, in the background, and not while the model waits.
        ids = [
            read_inputs(
                self.renderer, texts, limit, workers=decoders(data.picture_workers),
                bad=one if data.bad_pictures == "skip" else None,
            )
            for texts, limit, one in zip(
                (queries, documents), (model.query_max_length, model.document_max_length), bad, strict=True
            )
        ]  # fmt: skip
        return TokenBatch(batch, ids[0], ids[1], bad)

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
