"""teva-infer: encode queries and corpora with a dense retriever, and search them exactly."""

from __future__ import annotations

from typing import TYPE_CHECKING

from teva_data.lazy import attributes

if TYPE_CHECKING:
    from .encoder import Encoder
    from .encoding import encode
    from .engines import Engine
    from .mining import mine
    from .searching import merge_runs, search
    from .verifying import verify

    __version__: str


__all__ = ["Encoder", "Engine", "__version__", "encode", "merge_runs", "mine", "search", "verify"]

__getattr__, __dir__ = attributes(
    __name__,
    {
        "encoder": ("Encoder",),
        "encoding": ("encode",),
        "engines": ("Engine",),
        "mining": ("mine",),
        "searching": ("merge_runs", "search"),
        "verifying": ("verify",),
    },
)
