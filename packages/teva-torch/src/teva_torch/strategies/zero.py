"""DeepSpeed's ZeRO: optimiser states (1), gradients (2) and weights (3) in parts, or in CPU memory.

Rajbhandari et al., "ZeRO: Memory Optimizations Toward Training Trillion Parameter Models" (SC 2020). DeepSpeed averages
gradients over the processes and sums those of several passes; the step here sums both, so what goes back is multiplied
by the number of processes. Its own checkpoints are not used: ours hold whole tensors, and any number of processes and
any strategy can go on from them.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, ClassVar

import torch
from teva_data.errors import MissingExtraError, RecipeError, nearest
from teva_torch.optim import make_optimizer
from teva_torch.recipe import TorchSection
from torch import Tensor

from .replicated import Named, Strategy, own

# What the recipe says elsewhere, and a file of DeepSpeed's settings must leave open.
_OURS = {
    "optimizer": "train.*", "scheduler": "train.schedule", "bf16": "train.precision", "fp16": "train.precision",
    "gradient_clipping": "train.max_grad_norm", "train_batch_size": "train.batch_size",
    "train_micro_batch_size_per_gpu": "train.batch_size", "gradient_accumulation_steps": "train.accumulate",
    "managed_gradient_accumulation": "train.accumulate",
}  # fmt: skip
_STATES = ("exp_avg", "exp_avg_sq")


class Zero(Strategy):
    """``deepspeed``."""

    sharded: ClassVar[bool] = True

    def _lay_out(self, options: TorchSection) -> None:
        deepspeed = _deepspeed()
        if "loss" in self.trained and any(one.requires_grad for one in self.trained["loss"].parameters()):
            raise RecipeError(
                "torch.strategy: deepspeed clips and steps the model alone, so a loss with parameters of its own "
                "(loss.learn_temperature) does not go with it. Use fsdp2"
            )
        self.equal()
        self.model.to(self.device)
        settings = settings_of(options.deepspeed)
        zero = settings.get("zero_optimization", {})
        self.stage = int(zero.get("stage", 0))
        settings |= {
            "train_micro_batch_size_per_gpu": 1, "gradient_accumulation_steps": 1,
            # A pass is a chunk: only the loop knows which one is the last of a step.
            "managed_gradient_accumulation": False,
            "gradient_clipping": self.settings.max_grad_norm, "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,
            # At stage 0 DeepSpeed's masters are out of reach: weights stay float32, and passes compute in bfloat16 as
            # those of ddp do.
            "bf16": {"enabled": self.settings.precision == "bfloat16" and self.stage > 0},
        }  # fmt: skip
        optimizer = make_optimizer(self.model, self.settings, options.optimizer)
        os.environ.setdefault("LOCAL_RANK", str(self.processes.local))  # it asks for it of one process too
        with _quiet():
            self.engine, self._zero, *_ = deepspeed.initialize(
                model=self.model, optimizer=optimizer, config=settings, dist_init_required=False
            )
        self.model.run = lambda *texts, **media: self.engine(*texts, **media)

    def equal(self) -> None:
        """DeepSpeed has cut the values of process 0 by then."""
        if not hasattr(self, "engine"):
            super().equal()

    def backward(self, vectors: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
        """DeepSpeed takes a number to go back from."""
        sums = [(one * gradient).sum() for one, gradient in zip(vectors, gradients, strict=True)]
        self.engine.backward(torch.stack(sums).sum() * self.processes.world)

    def zero_grad(self) -> None:
        """DeepSpeed forgets them after a step."""

    def update(self, rate: float, check: Callable[[float], None]) -> float:
        """One step. The norm is known after it: where it is not finite, the run ends before anything is written."""
        for group in self._zero.param_groups:
            group["lr"] = rate
        if self.stage == 0:
            self.engine.allreduce_gradients()
            norm = math.sqrt(sum(float(one.double().square().sum()) for one in self.gradients().values()))
            check(norm)
        self.engine.step()
        if self.stage:
            norm = float(self.engine.get_global_grad_norm())
        check(norm)
        return norm

    def gradients(self) -> dict[str, Tensor]:
        """The gradients that a step would follow, whole, by name: for tests."""
        from deepspeed.utils import safe_get_full_grad

        if self.stage >= 2:
            self._zero.finalize_gradient_accumulation_boundary()
        elif self.stage == 1:
            self.engine._running_engine_step = True  # what decides, within DeepSpeed's step, that this is a step's end
            self.engine.allreduce_gradients()
        found = {name: safe_get_full_grad(one) if self.stage else one.grad for name, one in self._named()}
        return {name: value.clone().float() for name, value in found.items() if value is not None}

    def weights(self) -> Named:
        """float32 masters, whole; each process writes some of them."""
        from deepspeed.utils import safe_get_full_fp32_param

        trained = {name for name, _ in self._named()}
        for place, (name, value) in enumerate(own(self.trained)):
            full = safe_get_full_fp32_param(value) if self.stage and name in trained else value
            if self._mine(place):
                yield name, full.detach().float().cpu().clone() if name in trained else full.detach().cpu().clone()

    def states(self) -> Named:
        """Likewise; all parameters have taken as many steps."""
        from deepspeed.utils import safe_get_full_optimizer_state

        steps = self._steps()
        if steps is None:
            return
        self._link()
        for place, (name, parameter) in enumerate(self._named()):
            for key in _STATES:
                full = (
                    safe_get_full_optimizer_state(parameter, key) if self.stage
                    else self._base.state[parameter][key]
                )  # fmt: skip
                if self._mine(place):
                    yield f"{name}:{key}", full.detach().float().cpu().clone()
            if self._mine(place):
                yield f"{name}:step", torch.tensor(float(steps))

    def load(self, weights: Mapping[str, Callable[[], Tensor]], states: Mapping[str, Callable[[], Tensor]]) -> None:
        """All read all; DeepSpeed keeps each process's part."""
        trained = dict(self._named())
        with torch.no_grad():
            for name, value in own(self.trained):
                if name in trained and self.stage:
                    self._put(value, weights[name]())
                else:
                    value.copy_(weights[name]())
            self._show_masters()
            if not states:
                return
            self._make_states(int(states[f"{next(iter(trained))}:step"]()))
            for name, parameter in trained.items():
                for key in _STATES:
                    if self.stage:
                        self._put(parameter, states[f"{name}:{key}"](), key)
                    else:
                        self._base.state[parameter][key].copy_(states[f"{name}:{key}"]())

    def _put(self, parameter: Any, value: Tensor, key: str | None = None) -> None:
        """Put a whole tensor into the float32 masters, or into a state of the optimiser."""
        from deepspeed import utils

        value = value.to(self.device)
        if self.stage < 3:
            if key is None:
                utils.safe_set_full_fp32_param(parameter, value)
            else:
                utils.safe_set_full_optimizer_state(parameter, value, key)
            return
        # What DeepSpeed offers for whole tensors reads past their end where they do not divide evenly.
        size = parameter.ds_tensor.ds_numel
        part = torch.zeros(size, dtype=value.dtype, device=self.device)
        mine = value.flatten()[self.processes.rank * size : (self.processes.rank + 1) * size]
        part[: len(mine)] = mine
        if key is None:
            utils.safe_set_local_fp32_param(parameter, part)
        else:
            utils.safe_set_local_optimizer_state(parameter, part, key)

    def _show_masters(self) -> None:
        """Compute with the masters' values from here on: DeepSpeed does that after a step alone."""
        zero = self._zero
        if self.stage in (1, 2):
            zero.update_lp_params()
        elif self.stage == 3:
            zero._partition_all_parameters()
            for group in range(len(zero.fp32_partitioned_groups_flat)):
                zero._reassign_or_swap_out_partitioned_parameters(group)
            if zero.persistent_parameters:
                zero.persistent_parameters[0].all_gather(zero.persistent_parameters)

    # ------------------------------------------------------------------------------------------------------------------

    @property
    def _base(self) -> torch.optim.Optimizer:
        """torch's optimiser within DeepSpeed's; its parameters are flat parts."""
        found: torch.optim.Optimizer = getattr(self._zero, "optimizer", self._zero)
        return found

    def _named(self) -> list[tuple[str, Any]]:
        return [(name, one) for name, one in self.trained.named_parameters() if one.requires_grad]

    def _mine(self, place: int) -> bool:
        return place % self.processes.world == self.processes.rank

    def _steps(self) -> int | None:
        counts = {int(state["step"]) for state in self._base.state.values() if "step" in state}
        return max(counts, default=None)

    def _make_states(self, steps: int) -> None:
        """What torch's optimiser makes at its first step, so that there is something to put values into."""
        zero = self._zero
        flat = {3: "fp32_partitioned_groups_flat", 0: ""}.get(self.stage, "single_partition_of_fp32_groups")
        for tensor in getattr(zero, flat) if flat else [one for _, one in self._named()]:
            self._base.state[tensor] |= {
                "step": torch.tensor(float(steps)), **{key: torch.zeros_like(tensor) for key in _STATES}
            }  # fmt: skip
        self._link()

    def _link(self) -> None:
        """Tell DeepSpeed which part of its flat states is a parameter's."""
        if self.stage in (1, 2):
            # It does so after the first group's first step, when the others have no state yet, and never again.
            self._zero._hp_optimizer_states_linked = False
            self._zero._lazy_init_hp_params_optimizer_state()


def settings_of(name: str) -> dict[str, Any]:
    """DeepSpeed's settings: a preset of this package, or a JSON file.

    Raises:
        RecipeError: neither; a file that is not JSON; a key that the recipe decides.
    """
    folder = Path(str(resources.files("teva_torch") / "presets"))
    known = {file.stem: file for file in folder.glob("*.json")}
    path = known.get(name, Path(name))
    if not path.is_file():
        raise RecipeError(f"torch.deepspeed: {name!r}: no file, and no preset. {nearest(name, known)}")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, UnicodeDecodeError) as error:
        raise RecipeError(f"torch.deepspeed: {name}: not JSON ({error})") from None
    if not isinstance(found, dict):
        raise RecipeError(f"torch.deepspeed: {name}: found {type(found).__name__}; expected an object of settings")
    settings: dict[str, Any] = {key: value for key, value in found.items() if value != "auto"}
    if decided := sorted(settings.keys() & _OURS.keys()):
        raise RecipeError(
            f"torch.deepspeed: {name}: {decided[0]!r} is what {_OURS[decided[0]]} of the recipe says. Take it out"
        )
    return settings


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """DeepSpeed tells each process's plans at length."""
    logger = logging.getLogger("DeepSpeed")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _deepspeed() -> Any:
    try:
        import deepspeed
    except ImportError as error:
        raise MissingExtraError("torch.strategy: deepspeed", "teva-torch[deepspeed]") from error
    return deepspeed
