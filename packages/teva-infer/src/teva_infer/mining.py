"""Training negatives from a model's own search, for one dataset or all of a mixture: encode, search, choose.

Every step leaves its result in the working directory, and is not done again where that is there: embeddings by their
shards, a run and the mined queries by a record of what they were made of.
"""

from __future__ import annotations

import glob
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from teva_data.dataset import Dataset
from teva_data.errors import DataError, TevaError
from teva_data.files import checksum, fingerprint, lock_directory, read_whole, remove_leftovers, write_sealed
from teva_data.negatives import mine_negatives
from teva_data.recipe import load_recipe

from .encoder import Encoder
from .encoding import encode
from .searching import search

logger = logging.getLogger(__name__)

RECORD, SEARCHED = "made.json", "searched.json"


@dataclass(frozen=True)
class Source:
    """A split that negatives are mined for.

    Attributes:
        path: the dataset's directory.
        split: whose queries.
        query_prompt: before its queries; None for the model's own.
        document_prompt: before its documents; None for the model's own.
    """

    path: Path
    split: str
    query_prompt: str | None = None
    document_prompt: str | None = None


def sources(data: Sequence[str | Path], split: str = "train") -> list[Source]:
    """The splits that directories and recipes name.

    Args:
        data: datasets' directories, and recipes (``.yaml``), whose ``data`` section names one dataset or a mixture.
        split: of a directory; a recipe names its own.
    """
    found = list[Source]()
    for each in map(Path, data):
        found += _of_recipe(each) if each.suffix in (".yaml", ".yml") else [Source(each, split)]
    names = [(source.path.resolve(), source.split) for source in found]
    if twice := next((source for source, name in zip(found, names, strict=True) if names.count(name) > 1), None):
        raise TevaError(f"{twice.path}: the split {twice.split!r} is named twice; its negatives would be written twice")
    return found


def _of_recipe(path: Path) -> Iterator[Source]:
    recipe = load_recipe(path)
    prompts, data = recipe.prompts, recipe.data
    if data.path is not None:
        yield Source(Path(data.path), data.split, prompts.query, prompts.document)
    for one in data.datasets or ():
        yield Source(
            Path(one.path), one.split or data.split,
            prompts.query if one.query_prompt is None else one.query_prompt,
            prompts.document if one.document_prompt is None else one.document_prompt,
        )  # fmt: skip


def mine(
    model: str | Path | Encoder,
    data: Sequence[str | Path],
    work: str | Path,
    *,
    split: str = "train",
    name: str = "mined",
    depth: int = 100,
    backend: Literal["exact", "faiss"] = "exact",
    engine: str = "torch",
    engine_options: Mapping[str, Any] | None = None,
    device: str = "auto",
    dtype: str = "float32",
    batch_tokens: int = 16384,
    choice: Mapping[str, Any] | None = None,
) -> list[Path]:
    """Write each split's queries with negatives that the model ranks high: ``<split>-<name>.jsonl`` in its dataset.

    Killed and started again, it goes on where it was. Datasets that share a corpus (and a document prompt) have it
    encoded once.

    Args:
        model: a model directory, a hub id, or an `Encoder` (engine, device and dtype are then its own).
        data: datasets' directories, and recipes (``.yaml``) with one dataset or a mixture; prompts of a recipe's
            entries replace the model's.
        work: a directory for embeddings and runs.
        split: of the datasets that are named by their directory.
        name: what the new splits are called, behind the old one's name.
        depth: documents searched for each query, and ranks looked at.
        backend: of the search.
        engine: the entry point of an engine.
        engine_options: the engine's own.
        device: where it encodes.
        dtype: what it computes in.
        batch_tokens: tokens of a batch.
        choice: arguments of :func:`teva_data.mine_negatives`: count, skip, sample, seed, margin, max_ratio, ...

    Returns:
        The files.

    Raises:
        TevaError: a split is named twice, or the working directory holds the work of another model.
        DataError: bad data; a file of the new name that this work did not write.
    """
    wanted, work, paths = sources(data, split), Path(work), list[Path]()
    opened = [Dataset.open(source.path) for source in wanted]
    for source, dataset in zip(wanted, opened, strict=True):
        dataset.queries(source.split)  # a wrong name is told before anything is encoded
    encoder = model if isinstance(model, Encoder) else Encoder.load(
        model, engine=engine, engine_options=engine_options, device=device, dtype=dtype
    )  # fmt: skip
    work.mkdir(parents=True, exist_ok=True)
    lock = lock_directory(work, "mining")
    try:
        remove_leftovers(work, "run-*")
        for source, dataset in zip(wanted, opened, strict=True):
            logger.info("mine: %s, split %s", source.path, source.split)
            own = encoder.with_prompts(query=source.query_prompt, document=source.document_prompt)
            run = _searched(own, dataset, source, work, depth, backend, batch_tokens)
            paths.append(_mined(dataset, source, run, f"{source.split}-{name}", {"depth": depth, **(choice or {})}))
    finally:
        lock.close()
        if encoder is not model:
            encoder.close()
    return paths


def _searched(
    encoder: Encoder, dataset: Dataset, source: Source, work: Path, depth: int, backend: Any, batch_tokens: int
) -> Path:
    """The run of a split, made where it is not there."""
    sides = []
    for role, store in (("document", dataset.corpus), ("query", dataset.queries(source.split))):
        of, renderer = encoder.of(role), encoder.of(role).renderer
        prompt = renderer.document_prompt if role == "document" else renderer.query_prompt
        # Named after what they are, so that datasets with one corpus share it.
        key = fingerprint(of.artifact.side(role), store.fingerprint, prompt, of.engine_name, of.dtype, of.dim)[:16]
        split = source.split if role == "query" else None
        sides.append(encode(encoder, dataset, work / f"{role}-{key}", split=split, batch_tokens=batch_tokens))
    documents, queries = sides
    made_of = [documents.manifest["fingerprint"], queries.manifest["fingerprint"], depth, backend]
    run = work / f"run-{fingerprint(*made_of)[:16]}.tsv"
    record = run.with_suffix(f".{SEARCHED}")
    if run.exists() and record.exists():
        if checksum(run) == read_whole(record, f"Remove {record} and {run}; they are made again").get("checksum"):
            return run
        logger.warning("%s: damaged; it is searched again", run)
    search(queries, documents, run, depth=depth, backend=backend)
    write_sealed(record, {"checksum": checksum(run)})
    return run


def _mined(dataset: Dataset, source: Source, run: Path, name: str, choice: dict[str, Any]) -> Path:
    output = dataset.path / f"{name}.jsonl"
    record = run.with_suffix(f".{name}.{RECORD}")
    made_of = json.loads(json.dumps({"choice": choice, "split": source.split, "output": str(output.resolve())}))
    before = _record(record) if record.is_file() else {}
    finished = before.pop("finished", True)
    found = before.pop("checksum", None)
    if output.exists() and before == made_of and finished:
        if found not in (None, checksum(output)):
            raise DataError(
                "damaged or edited: its checksum is not that of what was mined", file=output, expected=found,
                hint="Remove it to have it mined again, or give what is mined another --name",
            )  # fmt: skip
        logger.info("mine: %s is there already", output)
        return output
    # What this work has written it may write anew; a file of somebody else's is refused.
    ours = not output.exists() or _ours(output, run.parent)
    if ours:
        remove_leftovers(output.parent, glob.escape(output.name))
        # A kill after the file is there and before its record is must not make it a stranger's.
        write_sealed(record, {**made_of, "finished": False})
    mine_negatives(dataset, source.split, run, output, **choice, overwrite=ours)
    write_sealed(record, {**made_of, "checksum": checksum(output)})
    return output


def _ours(output: Path, work: Path) -> bool:
    records = map(_record, work.glob(f"*.{RECORD}"))
    return any(record["output"] == str(output.resolve()) for record in records)


def _record(path: Path) -> dict[str, Any]:
    return read_whole(path, "Remove it, and what it was written for; both are made again")
