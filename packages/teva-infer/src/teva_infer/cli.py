"""The command `teva-infer`; its verbs are in `teva_infer.commands`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from teva_data.commandline import run

from .commands.embeddings import encode, export, import_tevatron, ray_encode
from .commands.mining import mine
from .commands.models import deploy, serve, verify
from .commands.searching import index, merge, ray_search, search, tune


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    return run(
        "teva-infer",
        "Encode queries and corpora with a dense retriever, and search them exactly or by an index.",
        {
            "encode": encode,
            "search": search,
            "merge": merge,
            "index": index,
            "tune": tune,
            "mine": mine,
            "verify": verify,
            "deploy": deploy,
            "serve": serve,
            "export": export,
            "ray-encode": ray_encode,
            "ray-search": ray_search,
            "import-tevatron": import_tevatron,
        },
        argv,
    )


if __name__ == "__main__":
    sys.exit(main())
