"""Measurements of teva-jax in a process of their own, which has as many devices as it is told.

``python -m benchmarks.jax_measure WHAT RECIPE`` prints one JSON object. :func:`measure` runs it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
MESHES = {"data 8": (8, 1, 1), "fsdp 8": (1, 8, 1), "data 2, fsdp 2, tensor 2": (2, 2, 2)}


def environment(devices: int) -> dict[str, str]:
    """Of a process with so many CPU devices; fewer threads than devices would wait for each other for ever."""
    flags = f"--xla_force_host_platform_device_count={devices}"
    kept = Path(tempfile.gettempdir()) / "teva-jax-programs"
    return {
        **os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags, "NPROC": "16",
        "JAX_COMPILATION_CACHE_DIR": str(kept), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.5",
    }  # fmt: skip


def measure(what: str, *words: str | Path, devices: int = 1, processes: int = 1) -> dict[str, Any]:
    """Run a measurement; of several processes, the first one's answer.

    Raises:
        RuntimeError: it failed.
    """
    line = [sys.executable, "-m", "benchmarks.jax_measure", what, *map(str, words)]
    started = []
    for number in range(processes):
        several = {
            "JAX_COORDINATOR_ADDRESS": "127.0.0.1:34571", "JAX_NUM_PROCESSES": str(processes),
            "JAX_PROCESS_ID": str(number),
        }  # fmt: skip
        env = environment(devices) | (several if processes > 1 else {})
        started.append(
            subprocess.Popen(line, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )
    answers = [one.communicate() for one in started]
    for one, (_, told) in zip(started, answers, strict=True):
        if one.returncode:
            raise RuntimeError(f"{what}: exit status {one.returncode}: {told[-3000:]}")
    found: dict[str, Any] = json.loads(answers[0][0].strip().splitlines()[-1])
    return found


def meshes(recipe: str) -> dict[str, Any]:
    """Loss and gradient on one device and on eight, with and without caching, with and without an adapter."""
    from benchmarks.jax_case import ONE, Case, relative, shaken

    found: dict[str, Any] = {}
    for name, overrides in (("full", {}), ("lora", {"jax.lora": {"rank": 4}, "jax.remat": True})):

        def gradient(sizes: tuple[int, int, int], cached: bool, given: Any = overrides) -> tuple[float, Any]:
            case = Case(recipe, {**given, "jax.gradient_cache": cached}, sizes)
            if given:
                case.state.trained["retriever"] = shaken(case.state.trained["retriever"])
            loss, total, _ = case.gradient()
            return loss, total

        loss, expected = gradient(ONE, False)
        rows = {"one device, cached": gradient(ONE, True)} | {
            mesh: gradient(sizes, True) for mesh, sizes in MESHES.items()
        }
        found |= {
            f"{name}, {row}": {"loss": abs(value - loss) / abs(loss), "gradient": relative(total, expected)}
            for row, (value, total) in rows.items()
        }
    return found


def processes(recipe: str, file: str) -> dict[str, Any]:
    """Loss and gradient over all devices of all processes; the gradient goes to a file."""
    import numpy as np

    import jax
    from benchmarks.jax_case import Case
    from teva_jax import processes as own
    from teva_jax.recipe import jax_section, read_recipe

    own.join(jax_section(read_recipe(recipe)))
    count = len(jax.devices())
    case = Case(recipe, {}, (1, count, 1))
    loss, total, _ = case.gradient()
    if own.main():
        np.savez(file, **total["retriever"])
    return {"loss": loss, "processes": jax.process_count(), "devices": count}


def memory(recipe: str, *batches: str) -> dict[str, Any]:
    """``compiled.memory_analysis()`` of the programs of a step at several batch sizes: temporary bytes."""
    from benchmarks.jax_case import ONE
    from teva_data.artifact import Artifact
    from teva_jax.mesh import make_mesh
    from teva_jax.plan import complete, lowered
    from teva_jax.recipe import read_recipe
    from teva_jax.state import Setup

    mesh = make_mesh(**dict(zip(("data", "fsdp", "tensor"), ONE, strict=True)))
    found = {}
    for batch in batches:
        checked = read_recipe(recipe, {"train.batch_size": int(batch)})
        base = Artifact.load(checked.model.name)
        setup = Setup.of(complete(checked, base), base, mesh)
        found[batch] = {
            name: program.compile().memory_analysis().temp_size_in_bytes
            for name, (program, _) in lowered(setup).items()
        }
    return found


def flops(recipe: str) -> dict[str, Any]:
    """FLOPs that the compiler counts for one device of eight along data, and for one device with an eighth of it."""
    import jax
    from teva_data.artifact import Artifact
    from teva_jax.mesh import make_mesh
    from teva_jax.plan import complete, lowered
    from teva_jax.recipe import read_recipe
    from teva_jax.state import Setup

    found: dict[str, Any] = {}
    checked = read_recipe(recipe)
    base = Artifact.load(checked.model.name)
    for name, sizes in {"one": (1, 1, 1), **MESHES}.items():
        count = sizes[0] * sizes[1] * sizes[2]
        mesh = make_mesh(data=sizes[0], fsdp=sizes[1], tensor=sizes[2], devices=jax.devices()[:count])
        setup = Setup.of(complete(checked, base), base, mesh)
        for part, (program, _) in lowered(setup, ("encode", "pull")).items():
            # A chunk has as many rows for each device along data and fsdp; tensor splits a row's work.
            found[f"{part}, {name}"] = program.compile().cost_analysis()["flops"] * sizes[2]
    return found


def merged(recipe: str) -> dict[str, Any]:
    """FLOPs of a step's two programs for a model of one layer, with the adapter beside the weights and merged in."""
    from collections.abc import Mapping

    import jax
    from teva_data.artifact import Artifact
    from teva_jax import lora
    from teva_jax.mesh import make_mesh
    from teva_jax.plan import complete, lowered
    from teva_jax.recipe import read_recipe
    from teva_jax.state import Setup

    checked = read_recipe(recipe)
    base = Artifact.load(checked.model.name)
    setup = Setup.of(complete(checked, base), base, make_mesh(data=1, fsdp=1, tensor=1))

    def count() -> dict[str, float]:
        programs = lowered(setup, ("encode", "pull"))
        return {name: program.cost_analysis()["flops"] for name, (program, _) in programs.items()}

    beside = count()
    retriever = setup.retriever

    def embed(trained: Any, frozen: Mapping[str, jax.Array], ids: Any, lengths: Any, key: Any) -> jax.Array:
        assert retriever.lora is not None
        whole = lora.merge(frozen, trained, retriever.lora)
        whole = {name: value.astype(frozen[name].dtype) for name, value in whole.items()}
        return retriever.embed(whole, None, ids, lengths, key)

    setup.gradient.embed = embed
    for part in ("encode", "pull"):
        getattr(setup.gradient, part).clear_cache()
    return {"beside": beside, "merged": count()}


def optimizer(recipe: str) -> dict[str, Any]:
    """How many parts of the optimiser's state lie as their parameters do, on eight devices."""
    from benchmarks.jax_case import Case

    case = Case(recipe, {}, (2, 2, 2))
    adam, places = case.state.optimizer[0], case.setup.places["retriever"]
    pairs = [(tree["retriever"][name].sharding, places[name]) for tree in (adam.mu, adam.nu) for name in places]
    return {
        "as their parameters": sum(one == other for one, other in pairs), "of": len(pairs),
        "in parts": sum(not one.is_fully_replicated for one, _ in pairs),
    }  # fmt: skip


def compilations(recipe: str, steps: str) -> dict[str, Any]:
    """Programs compiled in some steps, and the lengths that their chunks had."""
    from benchmarks.jax_case import Case

    case, lengths = Case(recipe), set()
    for step in range(int(steps)):
        case.gradient(step)
        lengths |= {chunk.token_ids.shape[1] for chunk in case.feed.batch(step).chunks}
    return {"lengths": len(lengths), **case.setup.gradient.compilations()}


WHAT = (meshes, processes, memory, flops, merged, optimizer, compilations)


def main(words: Sequence[str]) -> None:
    (function,) = (one for one in WHAT if one.__name__ == words[0])
    print(json.dumps(function(*words[1:])))


if __name__ == "__main__":
    main(sys.argv[1:])
