"""Converts a dataset that is declared in :mod:`teva_data.datasets`: from the hub, or from a local copy of it."""

from __future__ import annotations

import logging
from pathlib import Path

from teva_data.conversion import Options, check_destination, write_dataset
from teva_data.datasets import Declaration, Source, declaration
from teva_data.errors import DataError
from teva_data.writing import Form, MediaForm

from .tables import Tables, open_tables

logger = logging.getLogger(__name__)


def convert_declared(
    name: str,
    destination: str | Path,
    *,
    local: str | Path | None = None,
    splits: tuple[str, ...] = (),
    form: Form = "jsonl",
    media: MediaForm = "files",
    token: str | None = None,
    offline: bool = False,
    overwrite: bool = False,
) -> Path:
    """Make a dataset of one that is declared.

    Args:
        name: one of :func:`teva_data.datasets.known`.
        destination: the directory to make.
        local: read a local copy in the hub's form in place of the hub: a directory with one directory for each
            repository, named as it is (``colpali`` and ``colpali-corpus``); or the one repository itself.
        splits: the splits wanted; empty: all.
        form: see :func:`teva_data.conversion.convert`.
        media: see there.
        token: the hub's access token; the one that is logged in where not given.
        offline: take the repositories from the hub's local cache only.
        overwrite: replace a dataset that is there.

    Returns:
        ``destination``.

    Raises:
        DataError: no such dataset is declared, it is not here (the message holds the commands that fetch it), a column
            is missing, or what :func:`teva_data.conversion.convert` raises.
    """
    found = declaration(name)
    destination = Path(destination)
    place = None if local is None else Path(local).expanduser()
    tables = _open(found, found.queries, place, token, offline)
    corpus = None if found.corpus is None else _open(found, found.corpus, place, token, offline)
    for source, opened in zip(found.sources, (tables, corpus), strict=False):
        assert opened is not None
        _check_columns(found, source, opened)
        check_destination(opened.path, destination, overwrite)
    options = Options(splits=splits, corpus=corpus, assets=_assets(found))
    card = {
        "name": found.name, "license": found.license, "languages": list(found.languages),
        "source": ", ".join(f"{each.hub}@{each.revision or 'newest'}" for each in found.sources),
    }  # fmt: skip
    counts = write_dataset(
        tables, destination, found.layout, options, form=form, media=media, card=card, overwrite=overwrite
    )
    _compare(found, counts)
    return destination


def refuse_told(name: str, **told: object) -> None:
    """Refuse options that a declaration settles.

    Args:
        name: the dataset's.
        told: value of each option, true where the user gave it.

    Raises:
        DataError: one is given.
    """
    given = [option for option, value in told.items() if value]
    if given:
        raise DataError(
            "a declared dataset settles this itself", field=given[0].replace("_", "-"), found=name,
            hint=f"Leave it out, or convert by its name on the hub; see `teva-data datasets show {name}`",
        )  # fmt: skip


def _open(found: Declaration, source: Source, local: Path | None, token: str | None, offline: bool) -> Tables:
    if local is None:
        try:
            return open_tables(source.hub, revision=source.revision, token=token, offline=offline)
        except DataError as error:
            raise DataError(
                error.problem, file=error.file, found=error.found, expected=error.expected,
                hint=f"{error.hint}. Or fetch it and convert with --local DIR:\n{_commands(found, Path('DIR'))}",
            ) from error  # fmt: skip
    if (local / source.folder).is_dir():
        return open_tables(local / source.folder)
    if local.is_dir() and len(found.sources) == 1 and any(local.iterdir()):
        return open_tables(local)
    raise DataError(
        "not here", file=local / source.folder, expected=f"a copy of the hub's {source.hub}",
        hint=f"Fetch it:\n{_commands(found, local)}",
    )  # fmt: skip


def _commands(found: Declaration, local: Path) -> str:
    """What fetches the repositories to where ``local`` expects them."""
    return "\n".join(
        f"  hf download --repo-type dataset {source.hub} --local-dir {local / source.folder}"
        + (f" --revision {source.revision}" if source.revision else "")
        for source in found.sources
    )


def _check_columns(found: Declaration, source: Source, tables: Tables) -> None:
    """The columns that are read must be there: a repository that has changed is told before hours of reading."""
    names = tables.names()
    if not names:
        raise DataError("no table", file=tables.path or tables.name, hint=f"Fetch it:\n{_commands(found, Path('DIR'))}")
    first = tables.first(names[0])
    missing = [name for name in source.columns if name in _NEEDED and name not in first.record]
    if missing:
        raise first.error(
            "not the columns that are declared", missing[0], list(first.record),
            f"{', '.join(source.columns)}", f"The repository has changed, or `teva-data datasets show {found.name}` is "
            "wrong about it; convert it by its name on the hub",
        )  # fmt: skip


# Columns without which no row can be read; of media and answers a row may have none.
_NEEDED = (
    "query_id", "query", "query_text", "positive_passages", "negative_passages", "positive_document_ids", "docid",
)  # fmt: skip


def _assets(found: Declaration) -> Path | None:
    return None if found.corpus is None or found.corpus.assets is None else Path(found.corpus.assets)


def _compare(found: Declaration, counts: dict[str, int]) -> None:
    for split, expected in found.queries.rows.items():
        if split in counts and counts[split] != expected:
            logger.warning("%s: %s has %d queries; declared are %d", found.name, split, counts[split], expected)
