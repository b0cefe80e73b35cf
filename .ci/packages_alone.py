"""Build each package's wheel, install it alone in a clean environment, import it and ask it for help.

A shared environment hides a dependency that a package forgot to name.
"""

from __future__ import annotations

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
    chosen = sys.argv[1:] or list(WITHOUT)
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["uv"]
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


if __name__ == "__main__":
    main()
