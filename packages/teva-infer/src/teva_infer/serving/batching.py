"""Requests that come at the same time are answered together: one forward pass, one search."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from teva_data.errors import TevaError

from .systems import Hit

logger = logging.getLogger(__name__)

# Queries, and how many documents each wants.
Search = Callable[[Sequence[str], Sequence[int]], list[list[Hit]]]


class FullError(Exception):
    """More requests wait than may."""


def _ended() -> TevaError:
    return TevaError("this system does not answer any more: start the service anew")


class _Request(NamedTuple):
    query: str
    depth: int
    answer: asyncio.Future[list[Hit]]


class Batcher:
    """Collects requests for one system.

    Args:
        search: answers a batch; runs in a thread of its own, one batch at a time.
        most: requests of a batch.
        wait: seconds that a batch waits for more after its first request. While one is computed the next fills up, so
            under load batches are large without waiting.
        queue: requests that may wait; more are refused.
        seen: is told the size of each batch.
    """

    def __init__(
        self, search: Search, *, most: int = 32, wait: float = 0.005, queue: int = 1024,
        seen: Callable[[int], None] = lambda size: None,
    ) -> None:  # fmt: skip
        self._search, self._most, self._wait, self._seen = search, most, wait, seen
        self._queue: asyncio.Queue[_Request] = asyncio.Queue(queue)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="search")
        self._task: asyncio.Task[None] | None = None
        self._open = 0

    def start(self) -> None:
        """Begin to answer; within a running loop."""
        self._task = asyncio.create_task(self._answer())
        self._task.add_done_callback(self._refuse)

    def _refuse(self, task: asyncio.Task[None]) -> None:
        """Once nobody answers: tell those who wait."""
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("serve: a system does not answer any more", exc_info=error)
        while not self._queue.empty():
            request = self._queue.get_nowait()
            self._queue.task_done()
            if not request.answer.done():
                request.answer.set_exception(_ended())

    async def stop(self) -> None:
        """Answer what waits, and end."""
        if self.alive():
            await self._queue.join()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        self._thread.shutdown()

    def alive(self) -> bool:
        """Whether it answers: it has been started, and has not ended."""
        return self._task is not None and not self._task.done()

    def waiting(self) -> int:
        """Requests that are not answered yet."""
        return self._open

    async def search(self, query: str, depth: int) -> list[Hit]:
        """The best documents for a query.

        Raises:
            FullError: too many wait already.
            TevaError: nobody answers any more.
        """
        if not self.alive():
            raise _ended()
        answer: asyncio.Future[list[Hit]] = asyncio.get_running_loop().create_future()
        try:
            self._queue.put_nowait(_Request(query, depth, answer))
        except asyncio.QueueFull:
            raise FullError from None
        self._open += 1
        try:
            return await answer
        finally:
            self._open -= 1

    async def _answer(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            batch = [await self._queue.get()]
            until = loop.time() + self._wait
            while len(batch) < self._most and (left := until - loop.time()) > 0:
                try:
                    batch.append(await asyncio.wait_for(self._queue.get(), left))
                except TimeoutError:
                    break
            while len(batch) < self._most and not self._queue.empty():
                batch.append(self._queue.get_nowait())
            # Who has gone away meanwhile is not answered.
            asked = [request for request in batch if not request.answer.done()]
            try:
                if asked:
                    await self._run(asked)
            finally:
                for request in batch:
                    self._queue.task_done()
                    if not request.answer.done():
                        request.answer.set_exception(_ended())

    async def _run(self, asked: list[_Request]) -> None:
        queries, depths = [one.query for one in asked], [one.depth for one in asked]
        loop = asyncio.get_running_loop()
        try:
            self._seen(len(asked))
            found = await loop.run_in_executor(self._thread, self._search, queries, depths)
            answers = list(zip(asked, found, strict=True))
        except Exception as error:  # noqa: BLE001 - who asked is told
            if len(asked) > 1:
                # One question may be what is wrong: the others are answered.
                for request in asked:
                    await self._run([request])
            elif not asked[0].answer.done():
                asked[0].answer.set_exception(error)
            return
        for request, hits in answers:
            if not request.answer.done():
                request.answer.set_result(hits)
