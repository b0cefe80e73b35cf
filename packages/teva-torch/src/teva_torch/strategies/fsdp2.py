"""Each process holds a part of every weight, its gradient and its optimiser's state: torch's ``fully_shard`` (FSDP2).

The weights of a layer are gathered before it is computed and let go after it; its gradient is summed over the processes
as soon as it is there, and each keeps its part. With gradient caching that happens once for each chunk, so that no
process ever holds the whole gradient. (Zhao et al., "PyTorch FSDP", VLDB 2023; the layout per parameter is FSDP2's.)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

import torch
from teva_torch.backbones import blocks
from teva_torch.optim import make_optimizer
from teva_torch.pair import RetrieverPair
from teva_torch.recipe import TorchSection
from torch import Tensor

from .replicated import Named, Strategy, own, plain, stored


class FullySharded(Strategy):
    """``fsdp2``."""

    sharded: ClassVar[bool] = True

    def _lay_out(self, options: TorchSection) -> None:
        self.equal()  # before weights are cut: the parts must be of one whole
        device = self.device
        half = self.settings.precision == "bfloat16"
        settings: dict[str, Any] = {
            "mesh": init_device_mesh(device.type, (self.processes.world,)),
            "reshard_after_forward": options.reshard_after_forward,
            # Weights are gathered in the precision that they are used in; gradients are summed in float32.
            "mp_policy": MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
            if half else MixedPrecisionPolicy(),
        }  # fmt: skip
        for role in ("query", "document") if isinstance(self.model, RetrieverPair) else ("query",):
            backbone: Any = self.model.of(role).backbone
            for _, layers in blocks(backbone):
                for layer in layers:
                    fully_shard(layer, **settings)
            # What lies outside of layers is gathered by whoever calls it all: of two towers that is the retriever.
            fully_shard(self.model.of(role) if self.model.of(role).apart else backbone, **settings)
        for module in self.model.modules():
            if isinstance(module, FSDPModule):
                # The loss is a share of the global batch's already: gradients are summed, not averaged. gloo and nccl
                # both know the plain sum.
                module.set_gradient_divide_factor(1.0)
                module.set_force_sum_reduction_for_comms(True)
        self.trained.to(device)
        self.optimizer = make_optimizer(self.trained, self.settings, options.optimizer)

    def _reduce(self) -> float:
        """The model's gradients are summed already; the loss's are now."""
        parameters = [one for one in self.trained.parameters() if one.requires_grad]
        self.processes.add_gradients(one for one in parameters if not isinstance(one, DTensor))
        grads = [one.grad for one in parameters if one.grad is not None]
        parts = [float(_local(one).double().square().sum()) for one in grads if isinstance(one, DTensor)]
        whole = [float(one.double().square().sum()) for one in grads if not isinstance(one, DTensor)]
        norm = math.sqrt(self.processes.totals(sum(parts))[0] + sum(whole))
        factor = self.settings.max_grad_norm / (norm + 1e-6)  # as torch.nn.utils.clip_grad_norm_
        if factor < 1:
            for one in grads:
                _local(one).mul_(factor)
        return norm

    def gradients(self) -> dict[str, Tensor]:
        """The gradients, summed over the processes, whole, by name: for tests."""
        found = {name: one.grad for name, one in self.trained.named_parameters() if one.grad is not None}
        return {name: _whole(value).clone() for name, value in found.items()}

    def weights(self) -> Named:
        """Each process writes some of the tensors, whole: all together gather them one at a time."""
        for place, (name, value) in enumerate(own(self.trained)):
            full = _whole(value.detach())
            if self._mine(place):
                yield name, full.cpu()

    def states(self) -> Named:
        """Likewise."""
        for place, (name, parameter) in enumerate(self.trained.named_parameters()):
            for key, value in self.optimizer.state.get(parameter, {}).items():
                full = _whole(value)
                if self._mine(place):
                    yield f"{name}:{key}", stored(full).cpu()

    def load(self, weights: Mapping[str, Callable[[], Tensor]], states: Mapping[str, Callable[[], Tensor]]) -> None:
        """Each process takes its part of each tensor."""
        with torch.no_grad():
            for name, value in own(self.trained):
                _local(value).copy_(_local(_cut(weights[name](), value)))
        parameters = dict(self.trained.named_parameters())
        for key, read in states.items():
            name, _, part = key.rpartition(":")
            value = read()
            self.optimizer.state[parameters[name]][part] = (
                plain(value) if part == "step" else _cut(value, parameters[name])
            )

    def _mine(self, place: int) -> bool:
        return place % self.processes.world == self.processes.rank


def _whole(value: Tensor) -> Tensor:
    return value.full_tensor() if isinstance(value, DTensor) else value


def _local(value: Tensor) -> Tensor:
    return value.to_local() if isinstance(value, DTensor) else value


def _cut(value: Tensor, like: Tensor) -> Tensor:
    """The part of a whole tensor that this process has of ``like``."""
    if not isinstance(like, DTensor):
        return value.to(like.device)
    # Every process has read the same file: nothing needs to be sent.
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
