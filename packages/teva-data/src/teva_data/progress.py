"""Progress of long work: a bar on a terminal, a line now and then elsewhere, with a rate and an ETA in both."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

from tqdm import tqdm

logger = logging.getLogger(__name__)


class Progress:
    """Counts units of work towards a total.

    On a terminal this is a tqdm bar. Elsewhere (a log file, CI, SLURM) it logs a line every ``every`` seconds, since
    carriage returns make a log unreadable. Use as a context manager.

    Args:
        total: units of the whole work; None where nobody knows: then there is a count and a rate.
        what: what is being done, e.g. ``"encode"``.
        unit: the unit's name, e.g. ``"documents"``.
        done: units that an earlier run has finished already; they do not count towards the rate.
        every: seconds between two log lines where there is no terminal.
        left: gives the seconds that the rest will take, where the caller knows it better than the count does, since
            units are of unequal cost; None from it where it does not know yet.
    """

    def __init__(
        self, total: int | None, what: str, unit: str, *, done: int = 0, every: float = 10.0,
        left: Callable[[], float | None] | None = None,
    ) -> None:  # fmt: skip
        self.total, self.what, self.unit = total, what, unit
        self._left = left
        self.count = self._first = done
        self._every, self._start = every, time.monotonic()
        self._next = self._start + every
        self._bar = (
            _Bar(self.left, total=total, initial=done, desc=what, unit=f" {unit}", dynamic_ncols=True)
            if sys.stderr.isatty()
            else None
        )

    def add(self, units: int, note: str = "") -> None:
        """Count ``units`` more; ``note`` (e.g. the loss) stands at the end of the line."""
        self.count += units
        if self._bar is not None:
            if note:
                self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(units)
        elif (now := time.monotonic()) >= self._next:
            self._next = now + self._every
            logger.info("%s", self.line(note))

    def line(self, note: str = "") -> str:
        """The state in one line: done, total, rate, ETA."""
        rate = self.rate
        if self.total is None:
            text = f"{self.what}: {self.count:,} {self.unit}, {rate:,.1f} {self.unit}/s"
            return f"{text}, {note}" if note else text
        left = self.left()
        eta = "ETA unknown" if left is None else f"{_clock(left)} left"
        text = f"{self.what}: {self.count:,} of {self.total:,} {self.unit}, {rate:,.1f} {self.unit}/s, {eta}"
        return f"{text}, {note}" if note else text

    @property
    def rate(self) -> float:
        """Units per second since this run began; 0.0 before the first."""
        elapsed = time.monotonic() - self._start
        return (self.count - self._first) / elapsed if elapsed > 0 else 0.0

    def left(self) -> float | None:
        """Seconds that the rest will take; None where that is not known yet."""
        if self._left is not None:
            return self._left()
        return None if self.total is None or self.rate <= 0 else (self.total - self.count) / self.rate

    def __enter__(self) -> Progress:
        """Return itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """Close the bar and log the final rate."""
        if self._bar is not None:
            self._bar.close()
        elapsed = time.monotonic() - self._start
        logger.info(
            "%s: %s %s in %s, %.1f %s/s", self.what, f"{self.count - self._first:,}", self.unit, _clock(elapsed),
            self.rate, self.unit,
        )  # fmt: skip


class _Bar(tqdm):  # type: ignore[type-arg]
    """A bar whose time left is the caller's own, not what tqdm reckons of the count."""

    _FORMAT = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{left}, {rate_fmt}{postfix}]"

    def __init__(self, left: Callable[[], float | None], **settings: Any) -> None:
        # Before the bar is made: it shows itself at once.
        self._reckoned = left
        super().__init__(bar_format=self._FORMAT if settings["total"] is not None else None, **settings)

    @property
    def format_dict(self) -> dict[str, Any]:
        left = self._reckoned()
        return {**super().format_dict, "left": "?" if left is None else _clock(left)}


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
