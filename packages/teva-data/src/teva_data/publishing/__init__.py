"""Publishes a dataset on a hub: its files, and a card from which `datasets.load_dataset` loads them as they are."""

from __future__ import annotations

import json
import logging
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from teva_data.dataset import Dataset
from teva_data.errors import DataError, TevaError
from teva_data.hub import hub_errors
from teva_data.reader import COMPRESSIONS, read_lines

from .card import WRITTEN, Table, body, front_matter, look_at, parse, render, split_name

logger = logging.getLogger(__name__)

README = "README.md"
# Judgements again, as the hub's viewer and `datasets` want them; hidden, so that it is no split of the dataset.
VIEWER = ".viewer"
_ENDINGS = (".parquet", *(f".jsonl{ending}" for ending in COMPRESSIONS))


@dataclass(frozen=True)
class Publication:
    """What a push uploads.

    Attributes:
        repository: ``owner/name``.
        files: local file by path in the repository.
        generated: contents by path of what the dataset does not have: the card, and the judgements in the form that
            `datasets` can load beside the corpus.
    """

    repository: str
    files: dict[str, Path]
    generated: dict[str, bytes]

    @property
    def card(self) -> str:
        """The text of the card."""
        return self.generated[README].decode()

    def describe(self) -> str:
        """The files with their sizes in bytes, and the card."""
        sizes = {name: path.stat().st_size for name, path in self.files.items()}
        sizes |= {name: len(content) for name, content in self.generated.items()}
        lines = [f"{size:>15,}  {name}" for name, size in sorted(sizes.items())]
        total = f"{sum(sizes.values()):>15,}  bytes in {len(sizes)} files for {self.repository}"
        return "\n".join([*lines, total, "", self.card])

    def stage(self, directory: Path) -> None:
        """Lay the repository out in an empty directory, files as links to where they lie."""
        for name, path in self.files.items():
            place = directory / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(path.resolve())
        for name, content in self.generated.items():
            place = directory / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content)


def push(
    data: str | Path,
    repository: str,
    *,
    private: bool = False,
    revision: str | None = None,
    token: str | None = None,
    prune: bool = False,
    dry_run: bool = False,
) -> Publication:
    """Check a dataset and upload it to a hub as a dataset repository, which is made where it is missing.

    Args:
        data: the dataset's directory. A ``README.md`` in it becomes the card's body, its front matter is kept.
        repository: ``owner/name``.
        private: for a new repository: seen by its owner alone.
        revision: the branch to write, made where it is missing; the main one where not given.
        token: the hub's access token; the one that is logged in where not given.
        prune: delete the repository's files that the dataset does not have. Without it such files are an error,
            since a second file for a split would make the dataset unreadable.
        dry_run: check and return, upload nothing, ask no hub.

    Returns:
        What was uploaded, or would be.

    Raises:
        DataError: the dataset is not in order; with the address.
        TevaError: the hub refused or was not reached; with what to do.
    """
    publication = prepare(data, repository)
    if not dry_run:
        _upload(publication, private, revision, token, prune)
    return publication


def prepare(data: str | Path, repository: str) -> Publication:
    """Check a dataset and write its card; see :func:`push`."""
    if repository.count("/") != 1 or not all(repository.split("/")):
        raise DataError("not the name of a repository", field="repository", found=repository, expected="owner/name")
    dataset = Dataset.open(data)
    directory = dataset.path
    for split in dataset.splits:
        _check_split(dataset, split)
    corpus = look_at(directory, _sources(directory, "corpus"))
    splits = {split: look_at(directory, _sources(directory, split)) for split in dataset.splits}
    judged = {split: each for split in dataset.splits if (each := _judgements(dataset, split, corpus.parquet))}
    qrels = {split: table for split, (table, _) in judged.items()}
    _check_split_names(dataset)
    for table in (corpus, *splits.values()):
        if table.mixed:
            logger.warning(
                "%s: values of several types in %s; `datasets.load_dataset` may not read them",
                table.files[0], ", ".join(table.mixed),
            )  # fmt: skip
    files = {name: directory / name for name in _files(directory, corpus, *splits.values())}
    matter = front_matter(dataset.card, corpus, splits, qrels, directory.resolve().name)
    text = body(dataset.card, corpus, splits, qrels, repository)
    own = _readme(files.pop(README, None))
    if own is not None:
        theirs, text = own
        matter = {**matter, **theirs, "configs": matter["configs"], "dataset_info": matter.get("dataset_info", [])}
    generated = {table.files[0]: content for table, content in judged.values()}
    return Publication(repository, files, {README: render(matter, text).encode(), **generated})


def _readme(path: Path | None) -> tuple[dict[str, Any], str] | None:
    """Front matter and body of the dataset's own README.md; None where an earlier push wrote it."""
    if path is None:
        return None
    text = "\n".join(line for _, line in read_lines(path)) + "\n"
    return None if WRITTEN in text else parse(text, path)


def _check_split(dataset: Dataset, split: str) -> None:
    """Ids in order: of the queries' documents, where they name any, and of the judgements'."""
    if any(query.positive_document_ids for query in dataset.queries(split)):
        dataset.check_references(split)
    if _qrels_file(dataset.path, split) is None:
        return
    pairs = [(query_id, docid) for query_id, judged in dataset.qrels(split).items() for docid in judged]
    unknown = np.flatnonzero(dataset.corpus.rows([docid for _, docid in pairs]) < 0)
    if len(unknown):
        query_id, docid = pairs[int(unknown[0])]
        raise DataError(
            "judgement of an unknown document", file=_qrels_file(dataset.path, split), field="docid", found=docid,
            expected="a document of the corpus", hint=f"It is judged for query {query_id!r}",
        )  # fmt: skip


def _check_split_names(dataset: Dataset) -> None:
    names: dict[str, str] = {}
    for split in dataset.splits:
        other = names.setdefault(split_name(split), split)
        if other != split:
            raise DataError(
                "two splits would have one name on the hub", file=dataset.path, found=[other, split],
                expected="names that differ in letters and digits", hint="Rename one",
            )  # fmt: skip


def _sources(directory: Path, name: str) -> list[Path]:
    """The file or files of a corpus or split; that there is one kind of them, opening the dataset has checked."""
    for ending in _ENDINGS:
        if (path := directory / f"{name}{ending}").is_file():
            return [path]
    folder = directory / name
    there = sorted(path for path in folder.iterdir() if not path.name.startswith(".")) if folder.is_dir() else []
    found = [path for path in there if path.name.endswith(_ENDINGS)]
    if not found:
        raise DataError("no file", file=directory, found=name, expected=f"{name} with one of {', '.join(_ENDINGS)}")
    return found


def _qrels_file(directory: Path, split: str) -> Path | None:
    places = [directory / "qrels" / f"{split}.tsv{ending}" for ending in ("", ".gz")]
    return next((place for place in places if place.is_file()), None)


def _judgements(dataset: Dataset, split: str, parquet: bool) -> tuple[Table, bytes] | None:
    """A split's judgements as a table in the corpus's form, and the bytes of its file."""
    if _qrels_file(dataset.path, split) is None:
        return None
    rows = [
        {"query_id": query_id, "docid": docid, "score": score}
        for query_id, judged in dataset.qrels(split).items()
        for docid, score in judged.items()
    ]
    table = Table([f"{VIEWER}/qrels/{split}.{'parquet' if parquet else 'jsonl'}"], len(rows))
    if parquet:
        import pyarrow as pa
        import pyarrow.parquet as pq

        sink = pa.BufferOutputStream()
        pq.write_table(pa.Table.from_pylist(rows), sink)
        return table, sink.getvalue().to_pybytes()
    table.columns = {"query_id": "string", "docid": "string", "score": "int64"}
    return table, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def _files(directory: Path, *tables: Table) -> Iterator[str]:
    """Paths of all that is published: visible files of the directory, and media behind links to other directories."""
    found: set[str] = set()
    for folder, subfolders, names in os.walk(directory):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        here = Path(folder).relative_to(directory)
        found.update((here / name).as_posix() for name in names if not name.startswith("."))
    for table in tables:
        for name in table.media:
            if not (directory / name).is_file():
                raise DataError("no such file", file=directory / table.files[0], field="media", found=name)
            found.add(name)
    return iter(sorted(name for name in found if (directory / name).is_file()))


def _upload(publication: Publication, private: bool, revision: str | None, token: str | None, prune: bool) -> None:
    from huggingface_hub import HfApi

    api, name = HfApi(token=token, library_name="teva-data"), publication.repository
    with hub_errors(name):
        where: dict[str, Any] = {"repo_id": name, "repo_type": "dataset"}
        api.create_repo(private=private, exist_ok=True, **where)
        if revision is not None:
            api.create_branch(branch=revision, exist_ok=True, **where)
        there = set(api.list_repo_files(revision=revision, **where)) - {".gitattributes"}
        stale = sorted(there - publication.files.keys() - publication.generated.keys())
        if stale and not prune:
            raise TevaError(
                f"{name}: holds files that the dataset does not have: {', '.join(stale[:10])}. Delete them with "
                "prune (--prune), or push to another repository or branch (--revision)"
            )
        with tempfile.TemporaryDirectory(prefix="teva-push-") as staged:
            publication.stage(Path(staged))
            deleted = [_literally(path) for path in stale] or None
            found = api.upload_folder(
                folder_path=staged, revision=revision, delete_patterns=deleted,
                commit_message=f"{len(publication.files)} files of a teva dataset", **where,
            )  # fmt: skip
        logger.info("%s: uploaded, %s", name, getattr(found, "commit_url", ""))


def _literally(path: str) -> str:
    """A pattern that matches this path and no other."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in path)
