"""What needs a GPU; ``python -m benchmarks.gpu`` runs all of it."""

from __future__ import annotations

import argparse
from pathlib import Path


def parser(
    description: str | None, tiny: str = "a tiny model; shows that all of it runs, on a CPU too"
) -> argparse.ArgumentParser:
    """The options that every part has: ``--output`` and ``--tiny``."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--output", type=Path, required=True, help="directory of the figures")
    made.add_argument("--tiny", action="store_true", help=tiny)
    return made
