"""Each process holds the whole model; also what all strategies have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import ClassVar

import torch
from teva_data.recipe import TrainSection
from teva_torch.distributed import Processes
from teva_torch.model import Retriever
from teva_torch.optim import make_optimizer
from teva_torch.pair import RetrieverPair
from teva_torch.recipe import TorchSection
from torch import Tensor, nn

# Name of a tensor to its values, the whole of it, on the CPU.
Named = Iterator[tuple[str, Tensor]]


class Strategy:
    """One way to hold a model: the base of all, and that of ``single`` and ``ddp``.

    Attributes:
        sharded: whether a pass through the model is an exchange, so that all processes must make equally many.
        trained: the model and the loss: what a step may change, under the names that checkpoints have.
        device: where this process computes.
    """

    sharded: ClassVar[bool] = False

    def __init__(
        self,
        model: Retriever | RetrieverPair,
        loss: nn.Module | None,
        settings: TrainSection,
        options: TorchSection,
        processes: Processes,
        device: torch.device,
    ) -> None:
        self.model, self.settings, self.processes, self.device = model, settings, processes, device
        parts: dict[str, nn.Module] = {"retriever": model}
        if isinstance(loss, nn.Module):
            parts["loss"] = loss
        self.trained = nn.ModuleDict(parts)
        self._lay_out(options)

    def _lay_out(self, options: TorchSection) -> None:
        """Put the model where it is trained, and make the optimiser."""
        self.trained.to(self.device)
        self.equal()
        self.optimizer = make_optimizer(self.trained, self.settings, options.optimizer, fused=True)

    def equal(self) -> None:
        """Give all processes the values of process 0, where each made its own."""
        changing = (parameter.detach() for parameter in self.trained.parameters() if parameter.requires_grad)
        self.processes.broadcast([*changing, *self.trained.buffers()])

    def backward(self, vectors: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
        """Take the gradients [B, H] of the vectors [B, H] of some passes to the parameters."""
        torch.autograd.backward(vectors, gradients)

    def zero_grad(self) -> None:
        """Forget the gradients."""
        self.optimizer.zero_grad(set_to_none=True)

    def _reduce(self) -> float:
        """Sum the gradients over the processes and clip them.

        Returns:
            The norm of the whole gradient before it was clipped, the same in all processes.
        """
        parameters = list(self.trained.parameters())
        self.processes.add_gradients(parameters)
        return float(torch.nn.utils.clip_grad_norm_(parameters, self.settings.max_grad_norm))

    def update(self, rate: float, check: Callable[[float], None]) -> float:
        """Change the parameters by one step.

        Args:
            rate: the learning rate.
            check: is given the norm of the gradient, and raises where it stops the run.

        Returns:
            The norm.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        norm = self._reduce()
        check(norm)
        self.optimizer.step()
        return norm

    def gradients(self) -> dict[str, Tensor]:
        """The gradients, summed over the processes, whole, by name: for tests."""
        return {name: one.grad.clone() for name, one in self.trained.named_parameters() if one.grad is not None}

    # Checkpoints ------------------------------------------------------------------------------------------------------

    def weights(self) -> Named:
        """What training changes, as this process writes it: process 0 all. Frozen weights are those of the base model,
        which is part of what the run is.
        """
        if self.processes.main:
            yield from own(self.trained)

    def states(self) -> Named:
        """The optimiser's state, named ``parameter:key``, as this process writes it."""
        if self.processes.main:
            for name, parameter in self.trained.named_parameters():
                for key, value in self.optimizer.state.get(parameter, {}).items():
                    yield f"{name}:{key}", stored(value)

    def load(self, weights: Mapping[str, Callable[[], Tensor]], states: Mapping[str, Callable[[], Tensor]]) -> None:
        """Put a checkpoint's tensors back.

        Args:
            weights: those of all processes: name to what reads it. Every name of the model is there, and no other.
            states: likewise.
        """
        with torch.no_grad():
            for name, value in own(self.trained):
                value.copy_(weights[name]())
        parameters = dict(self.trained.named_parameters())
        for key, read in states.items():
            name, _, part = key.rpartition(":")
            parameter, value = parameters[name], read()
            # Unless it is fused, AdamW keeps its step count on the CPU whatever the parameter's device.
            fused = self.optimizer.param_groups[0].get("fused")
            self.optimizer.state[parameter][part] = (
                value.to(parameter.device) if fused or part != "step" else plain(value)
            )


def own(module: nn.Module) -> list[tuple[str, Tensor]]:
    """What training changes: parameters with a gradient, and buffers."""
    trained = [(name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad]
    return [*trained, *((name, buffer) for name, buffer in module.named_buffers())]


def stored(value: Tensor | float) -> Tensor:
    """An optimiser's value as a checkpoint keeps it."""
    # The 8-bit optimiser counts its steps in a number, and its parameters share a table, which safetensors refuses.
    return value.detach().clone().contiguous() if isinstance(value, Tensor) else torch.tensor(value)


def plain(value: Tensor) -> Tensor | int:
    """A step count as the optimiser had it."""
    return value if value.is_floating_point() else int(value)
