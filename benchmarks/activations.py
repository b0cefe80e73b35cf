"""How much autograd keeps of the encoder's forward passes: counted tensor by tensor, the same on every machine."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn


class Kept:
    """Bytes of the tensors that are kept for the backward pass.

    Attributes:
        now: kept at this moment.
        most: the largest ``now`` so far.
    """

    def __init__(self) -> None:
        self.now = self.most = 0

    def add(self, size: int) -> None:
        """Count ``size`` more bytes, or less where negative."""
        self.now += size
        self.most = max(self.most, self.now)


class _Held:
    """One tensor that autograd keeps; what it takes is given back when autograd drops it."""

    def __init__(self, tensor: Tensor, kept: Kept, counts: bool) -> None:
        self.tensor, self.kept = tensor.detach(), kept  # the tensor itself would be kept by its own graph for ever
        self.size = tensor.numel() * tensor.element_size() if counts else 0
        kept.add(self.size)

    def __del__(self) -> None:
        self.kept.add(-self.size)


@contextlib.contextmanager
def kept_of(model: nn.Module) -> Iterator[Kept]:
    """Count what autograd keeps of the model's forward passes within the block; its weights do not count."""
    import torch

    kept = Kept()
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    original = model.forward

    def hold(tensor: Tensor) -> _Held:
        return _Held(tensor, kept, tensor.untyped_storage().data_ptr() not in weights)

    def forward(*arguments: Any, **options: Any) -> Any:
        with torch.autograd.graph.saved_tensors_hooks(hold, lambda held: held.tensor):
            return original(*arguments, **options)

    model.forward = forward  # type: ignore[method-assign]
    try:
        yield kept
    finally:
        del model.forward
