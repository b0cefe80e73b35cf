"""The gradient of one batch: exact over all its negatives, in the memory of one chunk of texts.

Gao, Zhang, Han and Callan, "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup" (RepL4NLP 2021,
arXiv 2101.06983), over any number of processes. The loss depends on the model through the vectors alone, so a batch
takes three parts:

1. Each process encodes its own queries and documents in chunks of a token budget; all vectors are gathered.
2. Each process computes the loss of its own queries against all documents, on vectors that are cut off from the model;
   the gradients of the vectors are summed over the processes, and each takes those of its own texts.
3. These go back through the encoder, and leave each process's part of the parameters' gradient.

*Plain* and *cached* differ in 3 alone: plain keeps the encoder's graphs from 1; cached forgets them and encodes each
chunk once more, with the random state that it had, so that dropout drops the same. What plain needs grows with the
batch; what cached needs is one chunk's. The second pass must give the vectors of the first, or the gradient would be of
something else: that is compared.

Legend: Q queries and D documents of the global batch, n own texts, H hidden size.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from teva_data.errors import TevaError
from teva_data.feed import TokenBatch
from teva_data.inputs import key_of, media_of
from torch import Tensor, nn

from . import guards, vision
from .distributed import Processes
from .losses import Targets
from .model import Retriever
from .pair import RetrieverPair

if TYPE_CHECKING:
    from .strategies import Strategy

Loss = Callable[[Tensor, Tensor, Targets], Tensor]

# What two passes over one chunk may differ by, relative to the vectors' norm. Kernels that differ with and without a
# gradient stay far below it; another draw of dropout at 1 % is above.
_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 3e-2}


class PassError(TevaError):
    """The second pass of gradient caching gave other vectors than the first."""


@dataclasses.dataclass(frozen=True)
class Passes:
    """How texts go through the model.

    Attributes:
        chunk_tokens: tokens of one forward pass, padding included.
        cached: encode twice and keep one chunk's activations; otherwise once, and keep those of all.
        check: compare the second pass of the ``first`` chunk of queries and of documents with the first, or of ``all``.
        precision: of the passes; the vectors and the loss are float32.
        full: fill each pass to its bound, so that a step needs the memory that the bound says, whatever the batch.
        keep_vision: with ``cached``, what a frozen tower made of pictures is kept from the first pass for the second.
    """

    chunk_tokens: int
    cached: bool = False
    check: str = "first"
    precision: torch.dtype = torch.float32
    full: bool = False
    keep_vision: bool = True

    @contextlib.contextmanager
    def cast(self, device: torch.device) -> Iterator[None]:
        """Autocast in the passes' precision.

        A context of its own for what has one graph: within one, weights that were cast without a gradient would be
        taken again where there is to be one.
        """
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=self.precision == torch.bfloat16):
            yield


@dataclasses.dataclass
class _Chunk:
    rows: Tensor  # int64, which of the distinct texts
    token_ids: list[Sequence[int]]  # theirs; behind them, what stands there for other processes' sake alone
    random: RandomState | None = None
    seen: dict[str, Any] | None = None  # what a frozen tower made of its pictures in the first pass

    @property
    def seeing(self) -> bool:
        """Whether a text holds a picture."""
        return any(media_of(ids) for ids in self.token_ids)


class RandomState:
    """The states of the generators that a forward pass draws from: the CPU's and the device's."""

    def __init__(self, device: torch.device) -> None:
        self._cpu = torch.get_rng_state()
        self._module = None if device.type == "cpu" else torch.get_device_module(device)
        self._which = (device,) if device.type == "cuda" else ()  # mps has one generator and takes no name for it
        self._device = None if self._module is None else self._module.get_rng_state(*self._which)

    def restore(self) -> None:
        """Draw from here on what was drawn after this was made."""
        torch.set_rng_state(self._cpu)
        if self._module is not None:
            self._module.set_rng_state(self._device, *self._which)


class Encoding:
    """The vectors of one process's queries or documents, and the way back from their gradients to the parameters.

    Texts of the same tokens (and the same pictures) are encoded once, whatever their ids.

    Args:
        model: gives a text's vector.
        token_ids: n own texts.
        passes: chunks, precision, and whether the graph is kept.
        role: ``query`` or ``document``, for messages.
        backward: takes gradients [B, H] of the vectors [B, H] of some passes to the parameters.
    """

    def __init__(
        self,
        model: Retriever,
        token_ids: Sequence[Sequence[int]],
        passes: Passes,
        role: str,
        backward: Callable[[Sequence[Tensor], Sequence[Tensor]], None] = torch.autograd.backward,
    ) -> None:
        self.model, self.passes, self.role, self._back = model, passes, role, backward
        numbers: dict[tuple[Any, ...], int] = {}
        self._which = torch.tensor([numbers.setdefault(key_of(ids), len(numbers)) for ids in token_ids])
        first = dict(zip(reversed(self._which.tolist()), reversed(token_ids), strict=True))
        distinct = [first[number] for number in range(len(numbers))]
        self._chunks = [
            _Chunk(torch.from_numpy(rows), [distinct[row] for row in rows])
            for rows in model.chunks([len(ids) for ids in distinct], passes.chunk_tokens, full=passes.full)
        ]
        self.graphs: list[Tensor] = []  # of each pass, where they are kept
        self._distinct = torch.zeros((0, 0), device=model.device)

    @property
    def passes_needed(self) -> tuple[int, int]:
        """Passes through the model for the own texts, and how many of them show it pictures."""
        return len(self._chunks), sum(chunk.seeing for chunk in self._chunks)

    def agree(self, processes: Processes) -> None:
        """Make the passes those of the other processes, where a pass is an exchange: as many, through the same layers.

        A process that has fewer passes than another makes more with one text of one token. Those that show pictures
        come first, and where another process shows some, one of a single token is shown too; likewise a text, where
        texts go through a tower of their own. The vectors of what is added are not used, and their gradients are zero.
        """
        most, most_seeing = map(processes.largest, self.passes_needed)
        for _ in range(most - len(self._chunks)):
            self._chunks.append(_Chunk(torch.zeros(0, dtype=torch.int64), [[self.model.pad_id]]))
        self._chunks.sort(key=lambda chunk: not chunk.seeing)
        for chunk in self._chunks[:most_seeing]:
            chunk.token_ids += self.model.blanks(chunk.token_ids)
        if self.model.apart:
            reading = torch.tensor([self.model.reads(chunk.token_ids) for chunk in self._chunks], dtype=torch.int64)
            own = reading.tolist()
            processes.add(reading)
            for chunk, reads, read_somewhere in zip(self._chunks, own, reading.tolist(), strict=True):
                if read_somewhere and not reads:
                    chunk.token_ids.append([self.model.pad_id])

    def forward(self) -> Encoding:
        """Encode the own texts.

        Returns:
            Itself.
        """
        if not self._chunks:
            return self
        parts = []
        with torch.set_grad_enabled(not self.passes.cached), self.passes.cast(self.model.device):
            for chunk in self._chunks:
                chunk.random = RandomState(self.model.device)
                parts.append(self._first(chunk))
        if not self.passes.cached:
            self.graphs = parts
        kept = [part.detach()[: len(chunk.rows)] for part, chunk in zip(parts, self._chunks, strict=True)]
        order = torch.cat([chunk.rows for chunk in self._chunks]).to(kept[0].device)
        self._distinct = torch.cat(kept)[torch.argsort(order)]
        return self

    def _first(self, chunk: _Chunk) -> Tensor:
        """The vectors of a chunk; what a frozen tower sees in it is kept, where there will be another pass."""
        if not (self.passes.cached and self.passes.keep_vision and chunk.seeing):
            return self.model.vectors(chunk.token_ids)
        with vision.watched(self.model.backbone) as seen:
            vectors = self.model.vectors(chunk.token_ids)
        chunk.seen = seen[0] if seen else None
        return vectors

    @property
    def vectors(self) -> Tensor:
        """float32 [n, H], without a gradient; [0, 0] where there is no text."""
        return self._distinct[self._which.to(self._distinct.device)] if len(self._which) else self._distinct

    def backward(self, gradient: Tensor) -> None:
        """Add what the gradients [n, H] of :attr:`vectors` come to, to the parameters' gradients.

        Raises:
            PassError: the second pass gave other vectors than the first.
        """
        if not self._chunks:
            return
        each = self.shares(gradient)
        if self.graphs:
            self._back(self.graphs, each)
            self.graphs = []
            return
        after = RandomState(self.model.device)
        for number, one in enumerate(each):
            if self.model.learns(self._chunks[number].token_ids):
                self._back([self._again(number)], [one])
        after.restore()

    def shares(self, gradient: Tensor) -> list[Tensor]:
        """The gradient of each pass's vectors, from the gradients [n, H] of :attr:`vectors`."""
        summed = torch.zeros_like(self._distinct)
        if len(self._which):
            summed.index_add_(0, self._which.to(gradient.device), gradient)
        return [self._of(chunk, summed) for chunk in self._chunks]

    def _of(self, chunk: _Chunk, summed: Tensor) -> Tensor:
        """The gradient of a pass's vectors; zero of what stands there for the others' sake alone."""
        own = summed[chunk.rows.to(summed.device)]
        return torch.cat([own, summed.new_zeros((len(chunk.token_ids) - len(own), summed.shape[1]))])

    def _again(self, number: int) -> Tensor:
        """The vectors of a chunk once more, with a graph."""
        chunk = self._chunks[number]
        assert chunk.random is not None
        chunk.random.restore()
        with self.passes.cast(self.model.device):
            vectors = self.model.vectors(chunk.token_ids, chunk.seen)
        chunk.seen = None
        if (number == 0 or self.passes.check == "all") and len(chunk.rows):
            own = vectors.detach()[: len(chunk.rows)]
            self._compare(self._distinct[chunk.rows.to(vectors.device)], own, number)
        return vectors

    def _compare(self, first: Tensor, again: Tensor, number: int) -> None:
        difference = float((again - first).norm() / first.norm().clamp(min=torch.finfo(first.dtype).tiny))
        most = _TOLERANCE[self.passes.precision]
        if not difference <= most:  # so that NaN fails too
            raise PassError(
                f"gradient caching: the second pass over chunk {number + 1} of {len(self._chunks)} of the "
                f"{self.role} texts gave other vectors than the first (relative difference {difference:.2g}; expected "
                f"at most {most}). The random state differs between the passes, or the model draws random numbers or "
                "keeps a state outside of torch's generators. Set torch.gradient_cache: false"
            )


class BatchGradient:
    """Adds the gradient of batches to the parameters of a model and of its loss.

    Args:
        model: the encoder, or a pair of them.
        loss: ``(queries [Q, H], documents [D, H], targets) -> scalar``, see :class:`teva_torch.losses.Targets`.
        passes: how texts go through the model.
        processes: those that share the batch.
        strategy: how they hold the model; each the whole of it, where not given.
    """

    def __init__(
        self,
        model: Retriever | RetrieverPair,
        loss: Loss,
        passes: Passes,
        processes: Processes | None = None,
        strategy: Strategy | None = None,
    ) -> None:
        self.model, self.loss, self.passes = model, loss, passes
        self.processes = processes or Processes()
        self.sharded = strategy is not None and strategy.sharded
        self._back = torch.autograd.backward if strategy is None else strategy.backward
        self._dim = 0

    def encode(self, item: TokenBatch) -> tuple[Encoding, Encoding]:
        """Part 1 of a batch: own queries and documents. Without an exchange, unless each pass is one."""
        queries, documents = (
            Encoding(self.model.of(role), ids, self.passes, role, self._back)
            for ids, role in ((item.query_ids, "query"), (item.document_ids, "document"))
        )
        for encoding in (queries, documents):
            if self.sharded:
                encoding.agree(self.processes)
            encoding.forward()
        return queries, documents

    def leaves(self, item: TokenBatch, encodings: tuple[Encoding, Encoding]) -> tuple[Tensor, Tensor]:
        """The vectors of all processes, cut off from the model: float32 [Q, H] and [D, H] that take a gradient."""
        own = [encoding.vectors for encoding in encodings]
        if not self._dim:
            # A process without a text in this batch does not know H by itself.
            self._dim = self.processes.largest(max(vectors.shape[1] for vectors in own))
        totals = (item.batch.query_count, item.batch.document_count)
        queries, documents = (
            self.processes.gather(vectors.reshape(-1, self._dim), total).requires_grad_()
            for vectors, total in zip(own, totals, strict=True)
        )
        return queries, documents

    def own_loss(self, item: TokenBatch, queries: Tensor, documents: Tensor, scale: float) -> float:
        """Part 2 without its exchange: the loss of the own queries, its gradient (times ``scale``) left in the leaves.

        Args:
            item: the batch.
            queries: float32 [Q, H], a leaf.
            documents: float32 [D, H], a leaf.
            scale: 1 over the number of batches whose mean the step follows.

        Returns:
            The sum over the own queries divided by Q.

        Raises:
            TrainingError: it is not finite; the message names the queries.
        """
        if item.kept is not None:
            # What is left out has no gradient: these are parts of the leaves.
            queries, documents = (
                leaf[torch.from_numpy(places).to(leaf.device)]
                for leaf, places in ((queries, item.kept.queries), (documents, item.kept.documents))
            )
            item = dataclasses.replace(item, batch=item.kept.batch, kept=None)
        if not item.batch.queries:
            return 0.0
        targets = Targets.of(item.batch, queries.device)
        loss = self.loss(queries, documents, targets)
        guards.check_loss(loss)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise guards.loss_not_finite(value, item, self.loss, queries, documents, targets)
        (loss * scale).backward()  # type: ignore[no-untyped-call]
        return value

    def share(self, item: TokenBatch, queries: Tensor, documents: Tensor) -> tuple[Tensor, Tensor]:
        """The exchange of part 2: gradients [n, H] of the own queries and documents, summed over the processes."""
        own = []
        for leaf, span in ((queries, item.batch.query_range), (documents, item.batch.document_range)):
            gradient = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
            self.processes.add(gradient)
            own.append(gradient[slice(*span)])
        return own[0], own[1]

    def backward(self, encodings: tuple[Encoding, Encoding], gradients: tuple[Tensor, Tensor]) -> None:
        """Part 3: graphs that were kept are gone back through at once, as DeepSpeed wants it; others one by one."""
        if self.passes.cached:
            for encoding, gradient in zip(encodings, gradients, strict=True):
                encoding.backward(gradient)
            return
        graphs, shares = list[Tensor](), list[Tensor]()
        for encoding, gradient in zip(encodings, gradients, strict=True):
            # What a frozen tower alone has seen has no graph.
            kept = [
                pair for pair in zip(encoding.graphs, encoding.shares(gradient), strict=True) if pair[0].requires_grad
            ]
            graphs += [graph for graph, _ in kept]
            shares += [share for _, share in kept]
            encoding.graphs = []
        if graphs:
            self._back(graphs, shares)

    def add(self, item: TokenBatch, scale: float = 1.0) -> float:
        """All parts of one batch.

        The parameters' gradients are left as each process's part: who adds several batches sums them over the processes
        once, with :meth:`Processes.add_gradients`.

        Returns:
            The loss of the global batch, the same in all processes.

        Raises:
            TrainingError: a vector or the loss is not finite, or the device has too little memory.
            ProcessError: that happened in another process.
        """
        together, passes = self.processes.together, self.passes
        with together(exchanging=self.sharded), guards.memory("encoding", item, passes):
            encodings = self.encode(item)
        with together():
            guards.expect_finite(item, *(encoding.vectors for encoding in encodings))
        queries, documents = self.leaves(item, encodings)
        with together(), guards.memory("the loss", item, passes):
            loss = self.own_loss(item, queries, documents, scale)
        gradients = self.share(item, queries, documents)
        with together(exchanging=self.sharded), guards.memory("the way back through the encoder", item, passes):
            self.backward(encodings, gradients)
        return self.processes.totals(loss)[0]

    @property
    def module(self) -> nn.Module:
        """All that a step may change: the model, and the loss where it has parameters of its own."""
        parts: dict[str, nn.Module] = {"retriever": self.model}
        return nn.ModuleDict(parts | ({"loss": self.loss} if isinstance(self.loss, nn.Module) else {}))
