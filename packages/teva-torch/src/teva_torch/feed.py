"""Batches as token ids, prepared in the background while the model computes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from teva_data.errors import DataError
from teva_data.plan import Batch, BatchPlan
from teva_data.prefetch import prefetch
from teva_data.recipe import Recipe
from teva_data.rendering import Renderer


@dataclasses.dataclass(frozen=True)
class TokenBatch:
    """A batch of the plan, with the token ids of its queries and documents."""

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
    """

    def __init__(self, plan: BatchPlan, renderer: Renderer, recipe: Recipe) -> None:
        self.plan, self.renderer, self.recipe = plan, renderer, recipe

    def batch(self, step: int) -> TokenBatch:
        """The batch of one step.

        Raises:
            DataError: a query or document has no text.
        """
        batch, model = self.plan.batch(step), self.recipe.model
        for query in batch.queries:
            _expect_text(f"query {query.query_id!r}", query.query_text)
        for document in batch.documents:
            _expect_text(f"document {document.docid!r}", document.title, document.document_text)
        queries = [self.renderer.query(query.query_text, query.prompt) for query in batch.queries]
        documents = [
            self.renderer.document(document.document_text, document.title, prompt)
            for document, prompt in zip(batch.documents, batch.document_prompts, strict=True)
        ]
        return TokenBatch(
            batch,
            self.renderer.tokenize(queries, model.query_max_length),
            self.renderer.tokenize(documents, model.document_max_length),
        )

    def batches(self, start: int, stop: int, ahead: int = 2) -> Iterator[TokenBatch]:
        """The batches of steps ``start`` to ``stop`` - 1, at most ``ahead`` of them waiting.

        An error of the background thread is raised here, at the step that it belongs to.
        """
        return prefetch(self.batch, start, stop, ahead=ahead)


def _expect_text(what: str, *texts: str) -> None:
    """Refuse what has no text: all such would be the same empty string to the model."""
    if not any(text.strip() for text in texts):
        raise DataError("nothing but media", found=what, expected="a text", hint="This model reads text only")
