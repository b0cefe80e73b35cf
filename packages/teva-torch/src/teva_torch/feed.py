"""Batches as token ids, prepared in the background while the model computes."""

from __future__ import annotations

import contextlib
import dataclasses
import queue
import threading
from collections.abc import Iterator

from teva_data.plan import Batch, BatchPlan
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
        """The batch of one step."""
        batch, model = self.plan.batch(step), self.recipe.model
        queries = [self.renderer.query(query.query_text, query.prompt) for query in batch.queries]
        documents = [self.renderer.document(document.document_text, document.title) for document in batch.documents]
        return TokenBatch(
            batch,
            self.renderer.tokenize(queries, model.query_max_length),
            self.renderer.tokenize(documents, model.document_max_length),
        )

    def batches(self, start: int, stop: int, ahead: int = 2) -> Iterator[TokenBatch]:
        """The batches of steps ``start`` to ``stop`` - 1, at most ``ahead`` of them waiting.

        An error of the background thread is raised here, at the step that it belongs to.
        """
        waiting: queue.Queue[TokenBatch | BaseException] = queue.Queue(maxsize=ahead)
        done = threading.Event()

        def put(item: TokenBatch | BaseException) -> None:
            while not done.is_set():
                with contextlib.suppress(queue.Full):
                    waiting.put(item, timeout=0.2)
                    return

        def work() -> None:
            try:
                for step in range(start, stop):
                    if done.is_set():
                        return
                    put(self.batch(step))
            except BaseException as error:  # noqa: BLE001 - handed to the consumer, which raises it
                put(error)

        thread = threading.Thread(target=work, name="teva-feed", daemon=True)
        thread.start()
        try:
            for _ in range(start, stop):
                item = waiting.get()
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            done.set()
            thread.join()
