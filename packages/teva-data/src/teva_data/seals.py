"""What teva writes beside a model to tell later whether it is still that model: its record, and checksums."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from .errors import ArtifactError, DataError
from .files import checksum, read_whole, write_sealed

TEVA_FILE = "teva.json"
# Of an artifact that teva wrote: the checksum of each of its files but the card and teva.json, which has a seal.
CHECKSUMS = "checksums.json"
_UNLISTED = (CHECKSUMS, TEVA_FILE, "README.md")


def write_record(directory: Path, teva: dict[str, Any]) -> None:
    """Write ``teva.json``, with a seal."""
    write_sealed(directory / TEVA_FILE, teva)


def read_record(path: Path) -> dict[str, Any]:
    """``teva.json`` of a directory; empty where there is none.

    Raises:
        ArtifactError: it is damaged.
    """
    try:
        return read_whole(path / TEVA_FILE, "Fetch or export the model again, or remove the file")
    except FileNotFoundError:
        return {}
    except DataError as error:
        raise ArtifactError(str(error)) from error


def write_checksums(directory: Path) -> None:
    """Write ``checksums.json`` for all files of an artifact but its card and record; the last thing that is written."""
    files = sorted(path for path in directory.rglob("*") if path.is_file() and path.name not in _UNLISTED)
    write_sealed(
        directory / CHECKSUMS, {"files": {path.relative_to(directory).as_posix(): checksum(path) for path in files}}
    )


def checksums_of(path: Path) -> dict[str, str]:
    """Name to checksum of an artifact's files; empty where it has no such list."""
    hint = "Fetch or export the model again; where its files are right as they are, remove this one"
    try:
        files = read_whole(path / CHECKSUMS, hint).get("files")
    except FileNotFoundError:
        return {}
    except DataError as error:
        raise ArtifactError(str(error)) from error
    return files if isinstance(files, dict) else {}


def expect_unchanged(path: Path, chosen: Callable[[str], bool]) -> None:
    """Compare files of an artifact with their checksums.

    Args:
        path: its directory; one without a list is taken as it is.
        chosen: which of the listed names.

    Raises:
        ArtifactError: a file is not what was written; it is named.
    """
    for name, expected in checksums_of(path).items():
        file = path / name
        if chosen(name) and (not file.is_file() or checksum(file) != expected):
            raise changed(file)


def changed(file: Path) -> ArtifactError:
    """The error of a file that is not what was exported."""
    return ArtifactError(
        f"{file}: not the file that was exported: damaged, missing or edited. Fetch or export the model again; where "
        f"you have changed it yourself, remove {CHECKSUMS} from the model's directory"
    )
