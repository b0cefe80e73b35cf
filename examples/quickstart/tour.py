"""Tells what is being done as the commands that do the same, and how long each part took."""

from __future__ import annotations

import contextlib
import shlex
import time
from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass
class Part:
    """One part of the run.

    Attributes:
        title: what is done.
        commands: the command lines that do the same, without ``$``.
        seconds: wall time.
    """

    title: str
    commands: list[str] = field(default_factory=list)
    seconds: float = 0.0


class Tour:
    """The parts of a run, in order; prints each as it begins.

    Args:
        total: how many parts there will be.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self.parts: list[Part] = []

    @contextlib.contextmanager
    def part(self, title: str) -> Iterator[None]:
        """A part of the run, with its time."""
        part = Part(title)
        self.parts.append(part)
        print(f"\n[{len(self.parts)}/{self.total}] {title}", flush=True)
        start = time.monotonic()
        try:
            yield
        finally:
            part.seconds = time.monotonic() - start

    def command(self, *words: object, **options: object) -> None:
        """Print the command that does what comes next.

        Args:
            words: program, verb and positional arguments.
            options: ``max_length=64`` is ``--max-length 64``; a list has all its values after one option, None is
                left out, True is the option alone.
        """
        line = [str(word) for word in words]
        for name, value in options.items():
            if value is None or value is False:
                continue
            line.append(f"--{name.replace('_', '-')}")
            if value is not True:
                line += [str(item) for item in (value if isinstance(value, list | tuple) else [value])]
        self.parts[-1].commands.append(shlex.join(line))
        print(f"  $ {self.parts[-1].commands[-1]}", flush=True)

    def note(self, text: str) -> None:
        """A line of explanation."""
        print(f"  {text}", flush=True)

    @property
    def commands(self) -> list[str]:
        """All commands so far."""
        return [command for part in self.parts for command in part.commands]

    @property
    def seconds(self) -> float:
        """Wall time of all parts."""
        return sum(part.seconds for part in self.parts)
