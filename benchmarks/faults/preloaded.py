"""What the fork server imports once for all that it forks."""

from __future__ import annotations

import importlib
import os

from .forks import OF_TRAINING, PRELOADED, TRAINING

for _name in (*PRELOADED, *(OF_TRAINING if os.environ.get(TRAINING) else ())):
    importlib.import_module(_name)
