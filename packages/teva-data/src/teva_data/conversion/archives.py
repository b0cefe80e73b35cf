"""Finds files by relative path, in a directory or inside the uncompressed archives (tar) that lie in it."""

from __future__ import annotations

import tarfile
from pathlib import Path

from teva_data.errors import DataError
from teva_data.writing.incoming import MediaFile


class Archives:
    """Files below a directory; archives are indexed when a path is first looked for and is no file.

    The index holds one entry for each member of the archives, in memory.

    Args:
        directory: where paths start.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._members: dict[str, MediaFile] | None = None

    def find(self, path: str, beside: Path | None = None) -> MediaFile | None:
        """The file at a relative path that does not climb; None where there is none.

        Args:
            path: as it stands in a row.
            beside: another directory to start from, looked at first.
        """
        for start in (beside, self._directory):
            if start is not None and (start / path).is_file():
                return MediaFile(start / path)
        if self._members is None:
            self._members = {}
            for archive in sorted(self._directory.glob("**/*.tar")):
                self._index(archive)
        return self._members.get(path.removeprefix("./"))

    def _index(self, archive: Path) -> None:
        assert self._members is not None
        try:
            with tarfile.open(archive, "r:") as file:
                for member in file:
                    if member.isfile():
                        name = member.name.removeprefix("./")
                        piece = MediaFile(archive, member.offset_data, member.size, Path(name).name)
                        if self._members.setdefault(name, piece) is not piece:
                            raise DataError(
                                f"two archives have the file {name!r}", file=archive,
                                hint=f"The other is {self._members[name].path}",
                            )  # fmt: skip
        except (tarfile.TarError, OSError) as error:
            raise DataError(
                f"cannot be read: {error}", file=archive, expected="an uncompressed archive (tar)"
            ) from error
