"""What the fork server imports once for all that it forks."""

from __future__ import annotations

import importlib

from .forks import PRELOADED

for _name in PRELOADED:
    importlib.import_module(_name)
