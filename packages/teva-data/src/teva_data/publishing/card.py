"""The README.md of a dataset on a hub: front matter that `datasets.load_dataset` reads, and a body for people."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from teva_data.dataset import DatasetCard
from teva_data.errors import DataError
from teva_data.reader import read_rows
from teva_data.records import MEDIA

# A column's type: None for null, a dtype of `datasets`, {"list": type} or {"struct": {name: type}}.
Kind = str | dict[str, Any] | None


@dataclass
class Table:
    """A corpus, the queries of a split or its judgements: the files, and what they hold.

    Attributes:
        files: paths below the dataset's directory.
        rows: how many records.
        columns: type of each column by name; None where `datasets` finds the types by itself (Parquet).
        names: names of all columns.
        media: files named by records, paths below the dataset's directory.
        mixed: columns whose values have types that no table holds side by side.
    """

    files: list[str]
    rows: int = 0
    columns: dict[str, Kind] | None = None
    names: list[str] = field(default_factory=list)
    media: set[str] = field(default_factory=set)
    mixed: list[str] = field(default_factory=list)

    @property
    def parquet(self) -> bool:
        """In Parquet, not in JSONL."""
        return self.files[0].endswith(".parquet")


def look_at(directory: Path, files: list[Path]) -> Table:
    """Read a table's files once: columns, types, number of rows, media.

    Args:
        directory: the dataset's.
        files: JSONL, plain or compressed, or Parquet; all of one kind.

    Raises:
        DataError: a file cannot be read.
    """
    table = Table([path.relative_to(directory).as_posix() for path in files])
    if files[0].suffix == ".parquet":
        _look_at_parquet(table, files)
    else:
        _look_at_jsonl(table, files)
    return table


def _look_at_jsonl(table: Table, files: list[Path]) -> None:
    columns: dict[str, Kind] = {}
    mixed: set[str] = set()
    for path in files:
        for row in read_rows(path):
            table.rows += 1
            for name, value in row.record.items():
                try:
                    columns[name] = _merge(columns.get(name), _kind(value))
                except TypeError:
                    mixed.add(name)
                if name in MEDIA:
                    table.media.update(_files_in(value))
    table.columns, table.names, table.mixed = columns, list(columns), sorted(mixed)


def _look_at_parquet(table: Table, files: list[Path]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    for path in files:
        try:
            with pq.ParquetFile(path) as file:
                table.rows += file.metadata.num_rows
                names = file.schema_arrow.names
                table.names += [name for name in names if name not in table.names]
                for batch in file.iter_batches(columns=[name for name in names if name in MEDIA]):
                    for column in batch.columns:
                        for value in column.to_pylist():
                            table.media.update(_files_in(value))
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"not readable as Parquet: {error}", file=path) from error


def _files_in(value: Any) -> Iterator[str]:
    """The paths that a media value names; bytes that stand in the table itself name none."""
    if isinstance(value, list):
        for each in value:
            yield from _files_in(each)
    elif isinstance(value, str):
        yield value
    elif isinstance(value, dict) and isinstance(value.get("file"), str):
        yield value["file"]


def _kind(value: Any) -> Kind:
    if isinstance(value, list):
        inner: Kind = None
        for each in value:
            inner = _merge(inner, _kind(each))
        return {"list": inner}
    if isinstance(value, dict):
        return {"struct": {name: _kind(each) for name, each in value.items()}}
    return {str: "string", bool: "bool", int: "int64", float: "float64"}.get(type(value))


def _merge(one: Kind, other: Kind) -> Kind:
    """The type that holds both; TypeError where there is none."""
    if one is None or other is None or one == other:
        return one if other is None else other
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        if "list" in one:
            return {"list": _merge(one["list"], other["list"])}
        names = [*one["struct"], *(name for name in other["struct"] if name not in one["struct"])]
        return {"struct": {name: _merge(one["struct"].get(name), other["struct"].get(name)) for name in names}}
    if sorted(map(str, (one, other))) == ["float64", "int64"]:
        return "float64"
    raise TypeError


def _features(columns: Mapping[str, Kind]) -> list[dict[str, Any]]:
    return [{"name": name, **_feature(kind)} for name, kind in columns.items()]


def _feature(kind: Kind) -> dict[str, Any]:
    if kind is None:
        return {"dtype": "string"}  # nothing but null: any type will do, and one is needed
    if isinstance(kind, str):
        return {"dtype": kind}
    if "struct" in kind:
        return {"struct": _features(kind["struct"])}
    inner = _feature(kind["list"])
    return {"list": inner.get("dtype", inner.get("struct", inner))}


def split_name(name: str) -> str:
    """A split's name as hubs allow it: letters, digits, ``_`` and single dots between them."""
    return re.sub(r"\.{2,}|^\.|\.$", "_", re.sub(r"[^\w.]", "_", name))


def front_matter(
    card: DatasetCard, corpus: Table, splits: Mapping[str, Table], qrels: Mapping[str, Table], name: str
) -> dict[str, Any]:
    """The card's metadata: licence, languages, tags, and where each config's files lie.

    Configs: ``corpus`` (one split, ``corpus``), ``queries`` and ``qrels`` (the dataset's splits). `datasets` reads a
    whole repository in one way, so tables in another form than the corpus are left out of the configs.
    """
    tables = [corpus, *splits.values()]
    kinds = sorted({found for table in tables for column in table.names for found in _media_kinds(column)})
    matter: dict[str, Any] = {"pretty_name": card.name or name}
    if card.license:
        matter |= _licence(card.license)
    if card.languages:
        matter["language"] = card.languages
    visual = "image" in kinds
    matter["task_categories"] = ["text-retrieval", *(["visual-document-retrieval"] if visual else [])]
    matter["tags"] = ["teva", "retrieval", *kinds]
    configs = {"corpus": {"corpus": corpus}, "queries": dict(splits), "qrels": dict(qrels)}
    configs = {
        config: {split: table for split, table in tables.items() if table.parquet == corpus.parquet}
        for config, tables in configs.items()
    }
    configs = {config: tables for config, tables in configs.items() if tables}
    matter["configs"] = [_config(config, tables) for config, tables in configs.items()]
    infos = [_info(config, list(tables.values())) for config, tables in configs.items()]
    matter["dataset_info"] = [info for info in infos if info is not None]
    return {key: value for key, value in matter.items() if value != []}


def _config(config: str, tables: Mapping[str, Table]) -> dict[str, Any]:
    data_files = [
        {"split": split_name(split), "path": files[0] if len(files := table.files) == 1 else files}
        for split, table in tables.items()
    ]
    return {"config_name": config, "data_files": data_files, **({"default": True} if config == "queries" else {})}


def _info(config: str, tables: list[Table]) -> dict[str, Any] | None:
    """Types of a config's columns. All its splits must have the same: the union, which readers fill with null."""
    if any(table.columns is None or table.mixed for table in tables):
        return None
    columns: dict[str, Kind] = {}
    for table in tables:
        for name, kind in (table.columns or {}).items():
            try:
                columns[name] = _merge(columns.get(name), kind)
            except TypeError:
                return None
    return {"config_name": config, "features": _features(columns)}


def _media_kinds(column: str) -> list[str]:
    return [column.rpartition("_")[2]] if column in MEDIA else []


def _licence(text: str) -> dict[str, str]:
    # Hubs take short identifiers only; anything else is "other" with a name.
    if re.fullmatch(r"[a-z][a-z0-9.\-]*", text):
        return {"license": text}
    return {"license": "other", "license_name": re.sub(r"[^a-z0-9.\-]+", "-", text.lower()).strip("-") or "other"}


def body(
    card: DatasetCard, corpus: Table, splits: Mapping[str, Table], qrels: Mapping[str, Table], repository: str
) -> str:
    """What a reader of the card should know: counts, fields, where the data comes from, how to load it."""
    counts = [("corpus", corpus.rows, "-", corpus.names)]
    counts += [(split, table.rows, str(qrels[split].rows) if split in qrels else "-", table.names)
               for split, table in splits.items()]  # fmt: skip
    rows = "\n".join(
        f"| {name} | {count:,} | {judged} | {', '.join(f'`{column}`' for column in columns)} |"
        for name, count, judged, columns in counts
    )
    told = {
        "Source": card.source, "Licence": card.license, "Languages": ", ".join(card.languages),
        "Prompt of queries": card.prompts.query, "Prompt of documents": card.prompts.document,
    }  # fmt: skip
    provenance = "\n".join(
        f"- {key}: {_code(value) if 'Prompt' in key else value}" for key, value in told.items() if value
    )
    config = next(iter(splits), None)
    queries = f'queries = load_dataset("{repository}", "queries", split="{split_name(config)}")\n' if config else ""
    return _BODY.format(
        name=card.name or repository.rpartition("/")[2], rows=rows, repository=repository, queries=queries,
        provenance=f"\n## Provenance\n{provenance}\n" if provenance else "", notes="".join(_notes(corpus, splits)),
        written=WRITTEN,
    )  # fmt: skip


def _notes(corpus: Table, splits: Mapping[str, Table]) -> Iterable[str]:
    tables = [corpus, *splits.values()]
    if any(name.endswith(".zst") for table in tables for name in table.files):
        yield "\n`load_dataset` needs the package `zstandard` for these files; teva-data does not.\n"
    if other := [table.files[0] for table in tables if table.parquet != corpus.parquet]:
        yield f"\nIn another form than the corpus, so that `load_dataset` does not load them: {', '.join(other)}.\n"
    if mixed := sorted({name for table in tables for name in table.mixed}):
        columns = ", ".join(mixed)
        yield f"\nColumns with values of several types, which teva-data reads and `load_dataset` may not: {columns}.\n"
    if any(table.media for table in tables):
        yield "\nMedia columns hold paths below this repository, or a file with the first byte and the length in it.\n"


def _code(text: str) -> str:
    return f"`{text!r}`"


WRITTEN = "<!-- Written by `teva-data push`. A README.md without this line is kept. -->"
_BODY = """# {name}

Retrieval data: documents, and queries that name their positive (and negative) documents by id.

| | rows | judgements | fields |
|---|---|---|---|
{rows}
{provenance}
## Load it
```python
from huggingface_hub import snapshot_download
from teva_data import Dataset

data = Dataset.open(snapshot_download("{repository}", repo_type="dataset", local_dir="data"))
```
or, without teva-data:
```python
from datasets import load_dataset

corpus = load_dataset("{repository}", "corpus", split="corpus")
{queries}```
{notes}
{written}
"""


def render(matter: Mapping[str, Any], text: str) -> str:
    """Front matter and body as one file."""
    return f"---\n{yaml.safe_dump(dict(matter), sort_keys=False, allow_unicode=True)}---\n\n{text.strip()}\n"


def parse(text: str, file: Path) -> tuple[dict[str, Any], str]:
    """Front matter and body of a README.md; no front matter is an empty one.

    Raises:
        DataError: the front matter is no YAML mapping.
    """
    found = re.match(r"---\r?\n(.*?)^---\s*?$\r?\n?", text, flags=re.DOTALL | re.MULTILINE)
    if found is None:
        return {}, text
    try:
        matter = yaml.safe_load(found[1]) or {}
    except yaml.YAMLError as error:
        raise DataError(f"malformed YAML in the front matter: {error}", file=file) from error
    if not isinstance(matter, dict):
        raise DataError("the front matter is not a mapping", file=file, found=matter)
    return matter, text[found.end() :]
