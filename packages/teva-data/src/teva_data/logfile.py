"""A log file beside the output of long work, whatever the application's own logging shows."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator
from pathlib import Path


class _LogFile(logging.FileHandler):
    """A log that cannot be written (a full disk) is told once, in a line; the work's own files matter more."""

    told = False

    def handleError(self, record: logging.LogRecord) -> None:
        """Tell why, where it is the system that says no."""
        error = sys.exception()
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self.told:
            self.told = True
            print(f"{self.baseFilename}: the log cannot be written: {error.strerror}", file=sys.stderr)

    def close(self) -> None:
        """Close the file; what does not go into it any more was told."""
        with contextlib.suppress(OSError):
            super().close()


@contextlib.contextmanager
def log_to(file: Path, *packages: str) -> Iterator[None]:
    """Append what some packages log, from INFO on, to a file; and why the work ended, where it ended badly.

    Args:
        file: the log file; its directory is made.
        packages: names of loggers, e.g. ``"teva_data"``.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    handler = _LogFile(file, encoding="utf-8")
    handler.setLevel(logging.INFO)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    loggers = [logging.getLogger(package) for package in packages]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        if not logger.isEnabledFor(logging.INFO):
            logger.setLevel(logging.INFO)
    try:
        yield
    except BaseException as error:
        record = {"msg": f"stopped by {type(error).__name__}: {error}", "levelname": "ERROR", "levelno": logging.ERROR}
        handler.emit(logging.makeLogRecord(record))
        raise
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.removeHandler(handler)
            logger.setLevel(level)
        handler.close()
