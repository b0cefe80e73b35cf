"""Engines: what turns tokens (or texts) into vectors. Found by entry point: teva-infer itself needs no framework."""

from __future__ import annotations

import importlib.metadata
import inspect
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, cast, runtime_checkable

from teva_data.errors import MissingExtraError, TevaError, nearest
from teva_data.plugins import loaded

if TYPE_CHECKING:
    import numpy as np

    from teva_data.artifact import Artifact

GROUP = "teva_infer.engines"

# Engines of teva's own packages: the requirement that brings each.
_EXTRAS = {"torch": "teva-infer[torch]", "jax": "teva-infer[jax]"}


@runtime_checkable
class Engine(Protocol):
    """Turns one batch into vectors, and nothing else: order, batches and shards are teva-infer's.

    What an engine can do beyond that it says by attributes, all of them optional:

    - ``inputs = "texts"``: :meth:`encode` takes rendered texts in place of token ids, since another program tokenises.
    - ``schedules = True``: it makes batches of its own, so it is given many rows at once, whatever their lengths.
    - ``pass_tokens``: what a pass costs beside its tokens, in tokens (None: nothing is known of it): padding is weighed
      against it, and batches are smaller than they could be where that is less work.
    - ``stream(batches)``: an iterator over the vectors of an iterable of batches, in order; it may begin a batch before
      it has given the vectors of the one before, so that copies overlap with computing.
    - ``devices()``: a class method with the names of all devices that ``device="all"`` stands for.
    - ``pictures = True``: rows may be :class:`teva_data.inputs.Tokens`, whose pictures are decoded already;
      ``pictures = "placed"``: they may be :class:`teva_data.inputs.Placed`, whose pictures it cuts into patches.
    - ``close()``: ends what it has started.
    """

    @classmethod
    def load(cls, artifact: Artifact, *, device: str = "auto", dtype: str = "float32") -> Engine:
        """Load an artifact's weights. Further keyword arguments are the engine's options.

        Args:
            artifact: the model.
            device: "auto", or a name that the engine knows, e.g. "cpu", "cuda:1".
            dtype: what the engine computes in: "float32", "bfloat16" or "float16".
        """
        ...

    def encode(self, rows: Sequence[Any], /) -> np.ndarray:
        """Encode one batch.

        Args:
            rows: B rows of at least one token id, special tokens included, not padded; or B texts.

        Returns:
            float32 [B, dim], pooled, of length 1 where the artifact says so.

        Raises:
            EngineMemoryError: the batch is too large; teva-infer tries smaller ones.
        """
        ...


def known_engines() -> list[str]:
    """Names of the engines whose entry points are installed (what they need may still be missing)."""
    return sorted({point.name for point in importlib.metadata.entry_points(group=GROUP)})


def find_engine(name: str) -> type[Engine]:
    """The class of an engine, by the name of its entry point in the group ``teva_infer.engines``.

    Raises:
        MissingExtraError: the package that has it, or one that it asks for, is not installed.
        TevaError: nobody knows an engine of this name, or its package does not have it.
    """
    points = {point.name: point for point in importlib.metadata.entry_points(group=GROUP)}
    if name not in points:
        if name in _EXTRAS:
            raise MissingExtraError(f"the engine {name!r}", _EXTRAS[name])
        raise TevaError(f"unknown engine {name!r}. {nearest(name, {*points, *_EXTRAS})}")
    owner = points[name].dist
    requirement = _EXTRAS.get(name) or (owner.name if owner else points[name].module)
    return cast("type[Engine]", loaded(points[name], f"the engine {name!r}", requirement))


def load_engine(name: str, artifact: Artifact, *, device: str, dtype: str, options: Mapping[str, Any]) -> Engine:
    """Load an engine for an artifact.

    Args:
        name: of its entry point.
        artifact: the model.
        device: as :meth:`Engine.load` takes it; several with commas between them, or "all" of the machine.
        dtype: as :meth:`Engine.load` takes it.
        options: the engine's own.

    Raises:
        TevaError: an option that the engine does not have, or several devices of one that cannot tell them.
    """
    found: Any = find_engine(name)
    if device == "all":
        names = found.devices() if hasattr(found, "devices") else []
        device = ",".join(names) or "auto"
    parameters = inspect.signature(found.load).parameters
    if not any(each.kind is each.VAR_KEYWORD for each in parameters.values()):
        own = {key for key in parameters if key not in ("artifact", "device", "dtype")}
        for option in options:
            if option not in own:
                known = nearest(option, own) if own else "It has none"
                raise TevaError(f"the engine {name!r} has no option {option!r}. {known}")
    if "," in device:
        from .several import SeveralEngines

        return SeveralEngines(name, artifact, device.split(","), dtype=dtype, options=options)  # type: ignore[return-value]
    engine: Engine = found.load(artifact, device=device, dtype=dtype, **options)
    return engine
