"""The tables of a dataset on the hub, streamed through ``datasets``: nothing is kept on disk, media stay undecoded."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from teva_data.errors import DataError
from teva_data.progress import Progress
from teva_data.records import Row

from .table_files import media_value
from .tables import Tables

_HINT = (
    "Check the name, the revision and the connection; a private or gated dataset needs a token (--token, or HF_TOKEN) "
    "of an account that was let in"
)


class HubTables(Tables):
    """The configs of a hub dataset.

    Args:
        source: ``owner/name``; or a local directory, which ``datasets`` reads through the same code.
        revision: branch, tag or commit.
        token: the hub's access token.

    Raises:
        DataError: the hub cannot be asked, or has no such dataset, or does not give it.
    """

    hub = True

    def __init__(self, source: str, *, revision: str | None = None, token: str | None = None) -> None:
        super().__init__()
        import datasets

        self.name, self._options = source, {"revision": revision, "token": token}
        self._splits: dict[str, list[str]] = {}
        with _asking(source):
            self._names = datasets.get_dataset_config_names(source, **self._options)

    def beside(self, ending: str) -> Tables:
        """See :meth:`Tables.beside`; the newest revision."""
        return HubTables(f"{self.name}{ending}", token=self._options["token"])

    def names(self) -> list[str]:
        """The configs."""
        return list(self._names)

    def splits(self, name: str) -> list[str]:
        """The splits of a config."""
        import datasets

        self._checked(name, None)
        if name not in self._splits:
            with _asking(self.name):
                self._splits[name] = datasets.get_dataset_split_names(self.name, name, **self._options)
        return list(self._splits[name])

    def rows(self, name: str, split: str | None = None, *, quiet: bool = False) -> Iterator[Row]:
        """The rows; see :meth:`Tables.rows`. Their file is ``owner/name/config/split``, their line the row's number."""
        self._checked(name, split)
        for each in self.splits(name) if split is None else [split]:
            dataset = self._load(name, each)
            place = Path(self.name, name, each)
            count = None if dataset.info.splits is None else dataset.info.splits[each].num_examples
            with contextlib.ExitStack() as stack:
                progress = None
                if not quiet:
                    progress = stack.enter_context(Progress(count or None, f"read {name}, {each}", "rows"))
                number = 0
                rows = iter(dataset)
                while (record := self._next(rows, place, number)) is not None:
                    number += 1
                    if progress is not None:
                        progress.add(1)
                    yield Row({field: media_value(value, number) for field, value in record.items()}, place, number)

    def _next(self, rows: Iterator[dict[str, Any]], place: Path, done: int) -> dict[str, Any] | None:
        with _asking(f"{place}, after row {done}"):
            return next(rows, None)

    def _load(self, name: str, split: str) -> Any:
        import datasets

        with _asking(self.name):
            dataset = datasets.load_dataset(self.name, name, split=split, streaming=True, **self._options)
            # Without known features (JSON that declares none) there is nothing that would be decoded.
            return dataset if dataset.features is None else dataset.decode(False)


@contextlib.contextmanager
def _asking(what: str) -> Iterator[None]:
    """Turn whatever the hub's clients raise into an error that says what to do."""
    from datasets.exceptions import DatasetsError
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError

    try:
        yield
    except DataError:
        raise
    except (
        HfHubHTTPError, HFValidationError, DatasetsError, HTTPError, OSError, ValueError, RuntimeError,
    ) as error:  # fmt: skip
        # `datasets` wraps what its readers meet in errors of every sort; the innermost says most.
        inner: BaseException = error
        while inner.__cause__ is not None:
            inner = inner.__cause__
        reason = (
            (str(inner) or str(error)).strip().splitlines()[0] if str(inner) or str(error) else type(inner).__name__
        )
        raise DataError(f"the dataset cannot be read: {reason.rstrip('.')}", file=what, hint=_HINT) from error


def cached(name: str, revision: str | None) -> Path:
    """The directory of a hub dataset in the hub's local cache.

    Raises:
        DataError: it is not there.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, repo_type="dataset", revision=revision, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError) as error:
        again = f"`hf download --repo-type dataset {name}{f' --revision {revision}' if revision else ''}`"
        raise DataError(
            "not in the hub's local cache, and the hub is not asked (offline)", file=name,
            hint=f"Fetch it once with a connection: {again}",
        ) from error  # fmt: skip
