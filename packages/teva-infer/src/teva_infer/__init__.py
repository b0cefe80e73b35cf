"""teva-infer: encode queries and corpora with a dense retriever, and search them exactly."""

from __future__ import annotations

import importlib
import importlib.metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .encoder import Encoder
    from .encoding import encode
    from .engines import Engine
    from .mining import mine
    from .searching import merge_runs, search
    from .verifying import verify

__version__ = importlib.metadata.version("teva-infer")

__all__ = ["Encoder", "Engine", "__version__", "encode", "merge_runs", "mine", "search", "verify"]

_HOMES = {
    "Encoder": ".encoder", "Engine": ".engines", "encode": ".encoding", "merge_runs": ".searching", "mine": ".mining",
    "search": ".searching", "verify": ".verifying",
}  # fmt: skip
# No module is named like a public function: importing it would put the module in the function's place.


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that importing the package costs nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name], __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The public names, imported or not."""
    return sorted(__all__)
