"""What a recipe needs on a TPU slice, or on the devices at hand: its real programs compiled, none of them run.

The compiler's own accounting of memory, and the exchanges that it put into the programs. It proves that a run fits; it
says nothing of speed.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

import jax
from teva_data.artifact import Artifact
from teva_data.errors import RecipeError, TevaError
from teva_data.recipe import Recipe

from . import slices
from .feed import Chunk, Places
from .losses import Targets
from .mesh import replicated, sharding
from .recipe import jax_section, read_recipe
from .state import Setup, mesh_of

GIB = 2**30
_COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")


@dataclasses.dataclass(frozen=True)
class Program:
    """One compiled program, for one device.

    Attributes:
        name: which.
        arguments: bytes of what it is given.
        temporary: bytes beside that at its worst moment.
        resident: bytes of the run that lie there meanwhile and that it is not given.
        collectives: kind to how often one run of it exchanges.
        exchanged: bytes that come of these exchanges.
    """

    name: str
    arguments: int
    temporary: int
    resident: int
    collectives: Mapping[str, int]
    exchanged: int

    @property
    def peak(self) -> int:
        """Bytes on a device while it runs."""
        return self.arguments + self.temporary + self.resident


@dataclasses.dataclass(frozen=True)
class Plan:
    """What was found.

    Attributes:
        where: the slice, or the devices at hand.
        mesh: sizes of its axes.
        chunk_tokens: of one pass on one device; the largest that fits where the recipe leaves it open.
        programs: those of one step.
        memory: bytes that a device has; None where it is not known.
        tried: chunk_tokens to bytes of the worst moment, None where the compiler ran out of memory.
        passes: over chunks of the longest texts in one step at most, queries and documents, both passes.
    """

    where: str
    mesh: Mapping[str, int]
    chunk_tokens: int
    programs: Sequence[Program]
    memory: int | None
    tried: Mapping[int, int | None]
    passes: int

    @property
    def peak(self) -> int:
        """Bytes on a device at the worst moment of a step."""
        return max(program.peak for program in self.programs)

    @property
    def fits(self) -> bool:
        """Whether it does; a compiler that ran out of memory has said so already."""
        return bool(self.programs) and (self.memory is None or self.peak <= self.memory)

    def __str__(self) -> str:
        sizes = " x ".join(f"{name} {size}" for name, size in self.mesh.items())
        lines = [f"{self.where}: {int(np.prod(list(self.mesh.values())))} devices, {sizes}"]
        lines += [f"chunks of {self.chunk_tokens:,} tokens a device, at most {self.passes} passes a step", ""]
        lines += [f"{'program':<10}{'arguments':>11}{'temporary':>11}{'beside':>9}{'peak':>8}  GiB a device; exchanges"]
        for one in self.programs:
            kinds = ", ".join(f"{count} {kind}" for kind, count in one.collectives.items()) or "none"
            numbers = (one.arguments, one.temporary, one.resident, one.peak)
            a, t, r, p = (value / GIB for value in numbers)
            sizes = f"{one.name:<10}{a:>11.2f}{t:>11.2f}{r:>9.2f}{p:>8.2f}"
            lines.append(f"{sizes}  {kinds} ({one.exchanged / GIB:.2f} GiB)")
        lines.append("")
        for tokens, peak in sorted(self.tried.items()):
            told = "does not fit" if peak is None else f"{peak / GIB:.2f} GiB a device"
            lines.append(f"chunk_tokens {tokens:>7,}: {told}{' <- taken' if tokens == self.chunk_tokens else ''}")
        has = "memory of a device not known" if self.memory is None else f"a device has {self.memory / GIB:.2f} GiB"
        return "\n".join([*lines, f"{has}: {'fits' if self.fits else 'does not fit'}"])


def plan(recipe: str | Any, overrides: Mapping[str, Any] | Sequence[str] = (), *, target: str | None = None) -> Plan:
    """Compile a recipe's step, and say what it needs.

    The data are not read; of the model, ``config.json`` alone.

    Args:
        recipe: as :func:`teva_jax.training.train` takes it.
        overrides: dotted keys that replace the recipe's.
        target: a TPU slice (:data:`.slices.SLICES`), e.g. ``v4-8``; the devices at hand where not given.

    Raises:
        RecipeError: the recipe is not valid, or leaves open what only data could tell.
        TevaError: no slice of that name, or nothing fits.
    """
    checked = read_recipe(recipe, overrides)
    base = Artifact.load(checked.model.name, revision=checked.model.revision)
    checked = complete(checked, base)
    options = jax_section(checked)
    devices = jax.devices() if target is None else slices.devices(target)
    mesh, memory = mesh_of(options, devices), _memory(target, devices)
    most = _most_tokens(checked, mesh)
    sizes = [options.chunk_tokens] if options.chunk_tokens else _doublings(checked, most)
    tried: dict[int, int | None] = {}
    best: Plan | None = None
    for tokens in sizes:
        found = _compiled(checked, base, mesh, tokens, target, memory)
        tried[tokens] = None if found is None else found.peak
        if found is None or not found.fits:
            break
        best = found
    if best is None:
        raise TevaError(
            f"nothing fits {target or 'the devices at hand'}: with chunks of {sizes[0]:,} tokens a device needs "
            f"{'more than it has' if tried[sizes[0]] is None else f'{(tried[sizes[0]] or 0) / GIB:.1f} GiB'}. Would "
            "help most: jax.lora, jax.weights bfloat16, train.precision bfloat16, jax.remat, jax.gradient_cache, more "
            "devices"
        )
    return dataclasses.replace(best, tried=tried)


def complete(recipe: Recipe, base: Artifact) -> Recipe:
    """A recipe with the pooling that its run would have, as far as that is known without data."""
    pooling = recipe.model.pooling or base.pooling
    if pooling is None:
        raise RecipeError(f"model.pooling: {base.name} has no modules.json, so it does not say how to pool; set it")
    normalize = base.normalize if recipe.model.normalize is None else recipe.model.normalize
    model = recipe.model.model_copy(update={"pooling": pooling, "normalize": normalize})
    return recipe.model_copy(update={"model": model})


def lowered(setup: Setup, names: Sequence[str] | None = None) -> dict[str, tuple[Any, int]]:
    """The programs of a step for the longest texts, before they are compiled.

    Args:
        setup: the run.
        names: which; all where not given.

    Returns:
        Name to the lowered program, and to the bytes of a device that lie beside it.
    """
    gradient, state, mesh = setup.gradient, setup.shapes_of_state(), setup.mesh
    chunk, places = _chunk(setup), _places(setup)
    whole = replicated(mesh)
    pool = jax.ShapeDtypeStruct(gradient.shape, jnp.float32, sharding=whole)
    number = jax.ShapeDtypeStruct((), jnp.float32, sharding=whole)
    trained, total = state.trained, state.trained  # the sum of gradients is like what is trained
    own, beside = trained["retriever"], _bytes(state.optimizer)
    made: dict[str, tuple[Any, int]] = {}

    def add(name: str, program: Any, resident: int, *arguments: Any) -> None:
        if names is None or name in names:
            made[name] = (program.lower(*arguments), resident)

    sum_bytes, frozen_bytes = _bytes(total), _bytes(state.frozen)
    if gradient.cached:
        add("encode", gradient.encode, beside + sum_bytes, own, state.frozen, pool, chunk)
        add("pull", gradient.pull, beside, own, state.frozen, own, pool, pool, chunk, number)
    else:
        add("keep", gradient.keep, beside + sum_bytes, own, state.frozen, pool, chunk)
    beside_loss = beside + sum_bytes + _bytes(own) + frozen_bytes
    add("loss", gradient.loss_of, beside_loss, pool, trained["loss"], places, number)
    add("update", setup.optimizer.update, frozen_bytes, trained, state.optimizer, total, number)
    return made


def _compiled(
    recipe: Recipe, base: Artifact, mesh: Mesh, tokens: int, target: str | None, memory: int | None
) -> Plan | None:
    """The plan for one size of chunks; None where the compiler finds that it does not fit."""
    options = {**recipe.jax, "chunk_tokens": tokens}
    setup = Setup.of(recipe.model_copy(update={"jax": options}), base, mesh)
    longest = _chunks(setup)
    programs = []
    for name, (program, resident) in lowered(setup).items():
        try:
            done = program.compile()
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" in str(error) or "Ran out of memory" in str(error):
                return None
            raise
        used = done.memory_analysis()
        text = done.as_text()
        kinds, exchanged = collectives(text)
        new = used.output_size_in_bytes - used.alias_size_in_bytes
        # What is kept for the way back is kept for all chunks at once.
        new *= longest if name == "keep" else 1
        programs.append(Program(
            name, used.argument_size_in_bytes, used.temp_size_in_bytes + new, resident, kinds, exchanged
        ))  # fmt: skip
    return Plan(
        where=target or f"{mesh.size} x {mesh.devices.flat[0].device_kind} at hand", mesh=dict(mesh.shape),
        chunk_tokens=tokens, programs=programs, memory=memory, tried={},
        passes=longest * (2 if setup.gradient.cached else 1),
    )  # fmt: skip


def collectives(text: str) -> tuple[dict[str, int], int]:
    """Exchanges of one run of a compiled program, and the bytes that come of them; loops counted by their trips.

    Args:
        text: the program, as the compiler prints it.
    """
    runs, inside = _runs(text), ""
    counts, size = Counter[str](), 0
    for line in text.splitlines():
        inside = _computation(line) or inside
        for kind in _COLLECTIVES:
            if re.search(rf" {kind}(-start)?\(", line):
                counts[kind] += runs.get(inside, 1)
                size += runs.get(inside, 1) * _result_bytes(line.partition(f" {kind}")[0])
    return dict(counts), size


def _runs(text: str) -> dict[str, int]:
    """How often each computation of a program runs: those of loops as often as the loop turns."""
    inside, trips, parents = "", dict[str, int](), dict[str, str]()
    for line in text.splitlines():
        inside = _computation(line) or inside
        if body := re.search(r" while\(.*body=%?([\w.\-]+)", line):
            turns = re.search(r'known_trip_count"?:\{"n":"?(\d+)', line)
            trips[body[1]], parents[body[1]] = int(turns[1]) if turns else 1, inside
        for called in re.findall(r"(?:calls|to_apply|async_execution_thread.*calls)=%?([\w.\-]+)", line):
            parents.setdefault(called, inside)

    def times(name: str, depth: int = 0) -> int:
        own = trips.get(name, 1)
        return own if name not in parents or depth > 50 else own * times(parents[name], depth + 1)

    return {name: times(name) for name in {*trips, *parents}}


def _computation(line: str) -> str:
    """The computation that a line begins; empty where it begins none."""
    head = re.match(r"(?:ENTRY )?%?([\w.\-]+) \(.*\{$", line)
    return head[1] if head and " = " not in line.partition("(")[0] else ""


def _result_bytes(left: str) -> int:
    """Bytes of the arrays that a line of a program makes."""
    size = 0
    for kind, shape in re.findall(r"\b(pred|[suf]\d+|bf16)\[([\d,]*)\]", left):
        width = {"pred": 1, "bf16": 2}.get(kind) or int(kind[1:]) // 8
        size += width * int(np.prod([int(each) for each in shape.split(",") if each] or [1]))
    return size


def _chunk(setup: Setup) -> Chunk:
    """A chunk of the longest texts, without values."""
    shapes, mesh = setup.shapes, setup.mesh
    length = shapes.lengths()[-1]
    rows = shapes.rows(length)

    def array(shape: tuple[int, ...], dtype: Any, place: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=place)

    whole = replicated(mesh)
    made: Any = Chunk(
        array((rows, length), jnp.int32, sharding(("batch", None), mesh, (rows, length))),  # type: ignore[arg-type]
        array((rows,), jnp.int32, sharding(("batch",), mesh, (rows,))),  # type: ignore[arg-type]
        array((rows,), jnp.int32, whole),  # type: ignore[arg-type]
        array((2,), jnp.uint32, whole),  # type: ignore[arg-type]
    )
    return made


def _places(setup: Setup) -> Places:
    """The places of a batch's texts, without values."""
    shapes, whole = setup.shapes, replicated(setup.mesh)
    group = shapes.documents // shapes.queries if shapes.queries else 1

    def array(shape: tuple[int, ...], dtype: Any = jnp.int32) -> Any:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=whole)

    count = (shapes.queries,)
    targets = Targets(
        array(count), array((*count, group)), array((*count, group), jnp.float32), array((256, 2)), array(()), array(())
    )
    return Places(array(count), array((shapes.documents,)), targets)


def _chunks(setup: Setup) -> int:
    """Chunks of a step at most: every text as long as may be."""
    shapes, model = setup.shapes, setup.recipe.model
    size, most = setup.recipe.train.batch_size, shapes.lengths()
    total = 0
    for count, limit in ((size, model.query_max_length), (shapes.documents, model.document_max_length)):
        length = next(one for one in most if one >= limit)
        total += -(-count // shapes.rows(length))
    return total


def _most_tokens(recipe: Recipe, mesh: Mesh) -> int:
    """Tokens a device of a whole batch: larger chunks than that are none."""
    model, devices = recipe.model, mesh.shape["data"] * mesh.shape["fsdp"]
    documents = recipe.train.batch_size * (1 + max(one.negatives or 0 for one in recipe.data.listed()))
    return -(-documents * max(model.document_max_length, model.query_max_length) // devices)


def _doublings(recipe: Recipe, most: int) -> list[int]:
    limit = max(recipe.model.query_max_length, recipe.model.document_max_length)
    sizes = [limit]
    while sizes[-1] < min(most, 131072):
        sizes.append(2 * sizes[-1])
    # From the middle: the least sizes fit wherever anything does.
    return [one for one in sizes if one >= 2048] or sizes[-1:]


def _bytes(tree: Any) -> int:
    """Bytes of a device's part of arrays without values."""
    return sum(int(np.prod(one.sharding.shard_shape(one.shape))) * one.dtype.itemsize for one in jax.tree.leaves(tree))


def _memory(target: str | None, devices: Sequence[jax.Device]) -> int | None:
    """Bytes of a device."""
    if target is not None:
        return slices.SLICES[target].memory
    stats = devices[0].memory_stats()
    return None if stats is None else stats.get("bytes_limit")
