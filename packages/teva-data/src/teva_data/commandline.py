"""What the command lines of all packages share: verbs that are functions, errors without tracebacks, versions."""

from __future__ import annotations

import importlib.metadata
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .errors import TevaError

VERBS_HELP = "`{prog} VERB --help` tells what a verb takes. `{prog} --version` prints the version."


def run(
    package: str,
    description: str,
    verbs: Mapping[str, Callable[..., Any]],
    argv: Sequence[str] | None = None,
) -> int:
    """Run one verb of a package's command line and return the exit status.

    Args:
        package: the distribution's name, which is the command's name too (``teva-data``).
        description: one sentence for ``--help``.
        verbs: name to function; a function's signature and docstring are its options and help.
        argv: the arguments; those of the process where not given.

    Returns:
        0, or the verb's own status where it returns an int; 1 after a :class:`TevaError`; 2 for arguments that do not
        parse; 130 after Ctrl-C.
    """
    import tyro

    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] in (["--version"], ["-V"]):
        print(f"{package} {importlib.metadata.version(package)}")
        return 0
    try:
        _show_logs(os.environ.get("TEVA_LOG", "INFO"))
        status = tyro.extras.subcommand_cli_from_dict(
            dict(verbs),
            prog=package,
            description=f"{description}\n\n{VERBS_HELP.format(prog=package)}",
            args=gathered(arguments),
        )
        return status if isinstance(status, int) else 0
    except TevaError as error:
        print(f"{package}: error: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # The reader (head, less) has had enough; keep Python from complaining when it flushes stdout at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        # A full disk, a directory that may not be written: the system's own words, and the file.
        print(f"{package}: error: {error.filename or 'input/output'}: {error.strerror or error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        without = ", without --overwrite," if "--overwrite" in arguments else ""  # with it all begins anew
        print(f"{package}: stopped. The same command{without} goes on from what is whole", file=sys.stderr)
        return 130


def _show_logs(level: str) -> None:
    if level.upper() not in logging.getLevelNamesMapping():
        raise TevaError(f"TEVA_LOG: found {level!r}; expected DEBUG, INFO, WARNING or ERROR")
    logging.basicConfig(level=level.upper(), format="%(message)s", stream=sys.stderr)
    for handler in logging.getLogger().handlers:
        # A log file may lower a package's own level; what is shown here stays what was asked for.
        handler.setLevel(level.upper())


def gathered(words: Sequence[str]) -> list[str]:
    """``--name a --name b`` as ``--name a b``: an option that takes several words may be given once or several times.

    The parser would take the last one and say nothing of the others. An option that takes one word and is given twice
    becomes one that does not parse.
    """
    options = [word.partition("=")[0] for word in words if word.startswith("--") and len(word) > 2]
    several = {name for name in options if options.count(name) > 1 and "." not in name}
    part: list[str] = []
    parts = [part]
    own: dict[str, list[str]] = {}  # of each of the several: its words, which are one of the parts
    for word in words:
        name, equals, value = word.partition("=")
        if name in several:
            if name not in own:
                own[name] = [name]
                parts.append(own[name])
            part = own[name]
            part += [value] if equals else []
        elif word.startswith("--"):
            parts.append(part := [word])
        else:
            part.append(word)
    return [word for part in parts for word in part]


def split_overrides(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Take ``--section.key VALUE`` and ``--section.key=VALUE`` out of the words of a command."""
    rest: list[str] = []
    overrides: list[str] = []
    queue = list(words)
    while queue:
        word = queue.pop(0)
        if word.startswith("--") and "." in word.partition("=")[0]:
            overrides.append(word)
            if "=" not in word and queue:
                overrides.append(queue.pop(0))
        else:
            rest.append(word)
    return rest, overrides
