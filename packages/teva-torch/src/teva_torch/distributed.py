"""Several processes that train one model: who they are, what they exchange, how an error of one ends all.

torchrun starts them and tells each its place by the environment (``RANK``, ``WORLD_SIZE``, ``LOCAL_RANK``); without it
there is one, and every exchange here is the identity. Tensors on a GPU go over nccl, all others over gloo. There is no
wrapper around the model: what is summed is summed by name, once a step.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import gc
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch.distributed as dist

import torch
from teva_data.errors import TevaError
from torch import Tensor, nn

_GRACE = 0.2  # seconds
_LAST_WORDS = 1.0  # seconds in which the others hear what this process told them last, before its connections close
# What torch's messages hold where an exchange within a model's pass failed: they have no type of their own.
_LOST = ("onnection closed", "onnection reset", "NCCL", "imed out", "gloo")
BUCKET = 8 * 1024 * 1024  # elements of one exchange: large enough to keep a link busy, small beside a model
# torch 2.13 deprecates the second name; 2.11 has no other.
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor


class ProcessError(TevaError):
    """Another process of the run failed or ended."""


@dataclasses.dataclass(frozen=True)
class Processes:
    """The processes of a run, as one of them sees them.

    Attributes:
        rank: which one this is, from 0; process 0 writes, logs and exports.
        world: how many there are.
        local: which one this is on its machine: the number of its GPU.
    """

    rank: int = 0
    world: int = 1
    local: int = 0

    @property
    def main(self) -> bool:
        """Whether this is the one that writes."""
        return self.rank == 0

    def span(self, total: int, rank: int | None = None) -> tuple[int, int]:
        """First (included) and last (not included) of ``total`` rows that a process has, as the batch plan cuts."""
        rank = self.rank if rank is None else rank
        return rank * total // self.world, (rank + 1) * total // self.world

    def gather(self, rows: Tensor, total: int) -> Tensor:
        """The rows of all processes, in their order.

        Args:
            rows: own rows [n, ...], those of :meth:`span`; n may differ between processes and may be 0.
            total: rows of all processes together.

        Returns:
            [total, ...]; without a gradient.
        """
        if self.world == 1:
            return rows.detach()
        spans = [self.span(total, rank) for rank in range(self.world)]
        most = max(stop - start for start, stop in spans)
        own = rows.new_zeros((most, *rows.shape[1:]))
        own[: len(rows)] = rows.detach()
        everything = own.new_empty((self.world * most, *rows.shape[1:]))
        with _peers():
            _all_gather(everything, own)
        parts = torch.split(everything, most)
        return torch.cat([part[: stop - start] for part, (start, stop) in zip(parts, spans, strict=True)])

    def add(self, tensor: Tensor) -> None:
        """Put the sum over the processes in the place of a tensor's values."""
        if self.world > 1:
            with _peers():
                dist.all_reduce(tensor)

    def totals(self, *values: float) -> list[float]:
        """The sum over the processes of each of some numbers, in float64."""
        sums = torch.tensor(values, dtype=torch.float64)
        self.add(sums)
        return sums.tolist()

    def largest(self, value: int) -> int:
        """The largest of the processes' numbers."""
        if self.world == 1:
            return value
        found = torch.tensor(value)
        with _peers():
            dist.all_reduce(found, dist.ReduceOp.MAX)
        return int(found)

    def add_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Sum the gradients of parameters over the processes, many in one exchange.

        A parameter that has a gradient in some process gets one in all of them, so that a process without texts in
        this batch takes the same step as the others; one that has none anywhere keeps none.
        """
        if self.world == 1:
            return
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        used = torch.tensor([parameter.grad is not None for parameter in trained], dtype=torch.uint8)
        with _peers():
            dist.all_reduce(used, dist.ReduceOp.MAX)
        kinds: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
        for parameter, known in zip(trained, used.tolist(), strict=True):
            if known:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                kinds.setdefault((parameter.grad.dtype, parameter.grad.device), []).append(parameter.grad)
        for gradients in kinds.values():
            for bucket in _buckets(gradients):
                flat = torch.cat([gradient.reshape(-1) for gradient in bucket])
                self.add(flat)
                for gradient, values in zip(bucket, torch.split(flat, [one.numel() for one in bucket]), strict=True):
                    gradient.copy_(values.view_as(gradient))

    def broadcast(self, tensors: Iterable[Tensor]) -> None:
        """Put process 0's values in the place of all others'."""
        if self.world > 1:
            with _peers(), torch.no_grad():
                for tensor in tensors:
                    dist.broadcast(tensor, src=0)

    def texts(self, own: str) -> list[str]:
        """One text of each process, in their order."""
        if self.world == 1:
            return [own]
        content = torch.frombuffer(bytearray(own.encode() or b"\0"), dtype=torch.uint8)
        size = len(own.encode())
        sizes = torch.zeros(self.world, dtype=torch.int64)
        sizes[self.rank] = size
        self.add(sizes)
        padded = torch.zeros(max(1, int(sizes.max())), dtype=torch.uint8)
        padded[:size] = content[:size]
        everything = padded.new_empty(self.world * len(padded))
        with _peers():
            _all_gather(everything, padded)
        rows = everything.view(self.world, -1)
        return [bytes(row[:length].tolist()).decode() for row, length in zip(rows, sizes.tolist(), strict=True)]

    def wait(self) -> None:
        """Until all processes are here."""
        self.totals(0.0)

    @contextlib.contextmanager
    def together(self, *, exchanging: bool = False) -> Iterator[None]:
        """What each process does alone, between two exchanges: an error in one of them ends all of them here.

        Nothing is exchanged within: who waits there for a process that has failed would wait for ever.

        Args:
            exchanging: something is, as where each process holds a part of the model. Then the others cannot be told
                of an error: it is raised at once, and they end because this process does.

        Raises:
            ProcessError: another process raised; its message is in this one's.
        """
        if self.world == 1:
            yield
            return
        error = None
        try:
            yield
        except Exception as found:
            if exchanging:
                if isinstance(found, RuntimeError) and any(word in str(found) for word in _LOST):
                    with _peers():
                        raise
                raise
            error = found
        if not self.totals(float(error is not None))[0]:
            return
        kind = "" if error is None or isinstance(error, TevaError) else f"{type(error).__name__}: "
        said = "" if error is None else f"{kind}{error}"
        everyone = self.texts(said)
        if error is not None:
            raise error
        raise ProcessError("; ".join(f"process {rank}: {text}" for rank, text in enumerate(everyone) if text))


@contextlib.contextmanager
def join(device: str = "auto", timeout: float = 1800.0, alone: bool = False) -> Iterator[Processes]:
    """Join the other processes that torchrun started; without torchrun, be the only one.

    Args:
        device: as in the recipe; decides whether tensors of a GPU are exchanged.
        timeout: seconds to wait for the others in one exchange.
        alone: make a group of one where there is one process: what holds a model in parts asks for a group.

    Raises:
        TevaError: the environment names other processes and they cannot be reached.
    """
    try:
        world, rank, local = (
            int(os.environ.get(name, default)) for name, default in (("WORLD_SIZE", 1), ("RANK", 0), ("LOCAL_RANK", 0))
        )
    except ValueError as error:
        raise TevaError(f"WORLD_SIZE, RANK, LOCAL_RANK: not numbers ({error}); torchrun sets them") from None
    if world == 1 and not alone:
        yield Processes()
        return
    cuda = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
    ours = not dist.is_initialized()  # who calls train() from a program of its own may have joined already
    if ours:
        if cuda:
            torch.cuda.set_device(local)
        try:
            dist.init_process_group(
                "cpu:gloo,cuda:nccl" if cuda else "gloo", timeout=datetime.timedelta(seconds=timeout),
                **_alone(world),
            )  # fmt: skip
        except (RuntimeError, ValueError) as error:
            raise TevaError(
                f"process {rank} of {world}: cannot join the others ({error}). Start with torchrun, or unset WORLD_SIZE"
            ) from error
    try:
        yield Processes(rank, world, local)
    except BaseException:
        # nccl would wait for exchanges that never come; the process is about to end.
        if ours and not cuda:
            time.sleep(_LAST_WORDS)
            dist.destroy_process_group()
            _let_go()
        raise
    if ours:
        _leave(cuda)


def _alone(world: int) -> dict[str, Any]:
    """A group of one needs nobody to meet at."""
    return {"store": torch.distributed.HashStore(), "rank": 0, "world_size": 1} if world == 1 else {}  # type: ignore[attr-defined]


def _leave(cuda: bool) -> None:
    """End the group, once all are here, in a way that lets the interpreter end too."""
    if not cuda:
        with contextlib.suppress(RuntimeError):  # another one is gone already: it has said why
            dist.barrier()
    dist.destroy_process_group()
    _let_go()


def _let_go() -> None:
    """Wait until the threads of gloo hold nothing of this program's."""
    # A thread of gloo may hold the last exchange's tensors a moment longer. Where it lets go of them after the
    # interpreter has begun to end, the process aborts, and torchrun takes a finished run for a failed one
    # (seen under load; pytorch/pytorch#179291).
    gc.collect()
    time.sleep(_GRACE)


@contextlib.contextmanager
def _peers() -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise ProcessError(
            f"another process of the run ended or does not answer ({str(error).splitlines()[0]}). What it printed last "
            "says why; one that was killed may have run out of memory"
        ) from error


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    bucket: list[Tensor] = []
    for tensor in tensors:
        if bucket and sum(one.numel() for one in bucket) + tensor.numel() > BUCKET:
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket
