"""Every command in the documents is run, page by page, in the order in which it stands there, on tiny models."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.conftest import make_tiny_bert, make_tiny_data, make_tiny_qwen3
from tests.docs_blocks import DOCS, Block, exports, pages, run_here
from tests.docs_data import make_beir, make_pairs, make_sounds, make_tevatron

pytestmark = pytest.mark.slow
PAGES = [page for page in pages() if run_here(page)]

STAND_INS: dict[str, Callable[[Path], object]] = {
    "MODEL": make_tiny_bert, "DECODER": make_tiny_qwen3, "DATA": make_tiny_data, "BEIR": make_beir,
    "PAIRS": make_pairs, "TEVATRON": make_tevatron, "SOUNDS": make_sounds,
}  # fmt: skip
"""What a page may name in its setup block, and what makes it."""


@pytest.fixture(scope="session")
def stand_ins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One of each, made when first asked for; a page works on copies."""
    return tmp_path_factory.mktemp("stand-ins")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))
def test_the_commands_of_a_page(page: Path, stand_ins: Path, tmp_path: Path) -> None:
    script = tmp_path / "page.sh"
    script.write_text("".join([_HEAD, *(_as_shell(block, stand_ins, tmp_path) for block in run_here(page))]))
    done = subprocess.run(
        ["bash", script], cwd=tmp_path, env=_environment(), capture_output=True, text=True, timeout=580, check=False
    )
    assert done.returncode == 0, f"{done.stdout[-4000:]}\n{done.stderr[-6000:]}"


_HEAD = """set -euo pipefail
trap 'echo "failed in the block at $BLOCK" >&2' ERR
"""


def _as_shell(block: Block, stand_ins: Path, work: Path) -> str:
    head = f"\nBLOCK={block.address}\n"
    if block.mark == "setup":
        return head + "".join(_export(name, stand_ins, work) for name in exports(block))
    if block.language == "python":
        file = work / f"block{block.line}.py"
        file.write_text(block.text)
        return f"{head}python {file.name}\n"
    return head + block.text


def _export(name: str, stand_ins: Path, work: Path) -> str:
    made, own = stand_ins / name.lower(), work / name.lower()
    if not made.exists():
        made.mkdir()
        STAND_INS[name](made)
    if not own.exists():
        shutil.copytree(made, own)
    return f"export {name}={shlex.quote(own.name)}\n"


def _environment() -> dict[str, str]:
    scripts = str(Path(sys.executable).parent)
    return {**os.environ, "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}", "HF_HUB_OFFLINE": "1",
            "PYTHONPATH": str(DOCS.parent), "TEVA_LOG": "WARNING"}  # fmt: skip
