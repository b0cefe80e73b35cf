"""One package is released alone, and siblings that do not go together say so."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


def _run(*words, cwd=None, ok=True):
    done = subprocess.run([str(word) for word in words], cwd=cwd, capture_output=True, text=True, check=False)
    assert (done.returncode == 0) == ok, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture
def clone(tmp_path):
    """The repository as it is now, committed."""
    place = tmp_path / "clone"
    _run("git", "clone", "--quiet", ROOT, place)
    names = _run("git", "ls-files", "--cached", "--others", "--exclude-standard", cwd=ROOT).splitlines()
    for name in names:
        if (ROOT / name).is_file():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, place / name)
    _run("git", "config", "user.email", "someone@example.org", cwd=place)
    _run("git", "config", "user.name", "Someone", cwd=place)
    _run("git", "add", "--all", cwd=place)
    _run("git", "commit", "--quiet", "--allow-empty", "--message", "as it is", cwd=place)
    return place


def _release(clone, *words, ok=True):
    return _run(sys.executable, ".ci/release.py", *words, cwd=clone, ok=ok)


def test_one_package_is_released_alone(clone, tmp_path):
    log = clone / "packages/teva-eval/CHANGELOG.md"
    said = "- Something that users see.\n"
    log.write_text(log.read_text().replace("## Unreleased\n", f"## Unreleased\n\n{said}", 1))
    assert "not committed" in _release(clone, "teva-eval", "0.1.1", ok=False)
    _run("git", "commit", "--quiet", "--all", "--message", "a change", cwd=clone)
    for wrong in ("0.3.0", "0.1.0.1", "0.0.9"):
        assert "expected" in _release(clone, "teva-eval", wrong, ok=False)

    told = _release(clone, "teva-eval", "0.2.0", "--output", tmp_path / "dist")
    assert "teva-eval-v0.2.0" in told
    assert {path.name for path in (tmp_path / "dist").iterdir() if not path.name.startswith(".")} == {
        "teva_eval-0.2.0-py3-none-any.whl", "teva_eval-0.2.0.tar.gz",
    }  # fmt: skip
    assert _run("git", "describe", "--exact-match", cwd=clone).strip() == "teva-eval-v0.2.0"
    changed = _run("git", "show", "--name-only", "--format=", "HEAD", cwd=clone).split()
    assert sorted(changed) == ["packages/teva-eval/CHANGELOG.md", "packages/teva-eval/pyproject.toml"]
    headings = re.findall(r"^## (.*)$", log.read_text(), flags=re.MULTILINE)
    assert headings[:2] == ["Unreleased", "0.2.0"]
    assert said in log.read_text().partition("## 0.2.0\n")[2].partition("\n## ")[0]
    assert "tag teva-eval-v0.2.0 is there" in _release(clone, "teva-eval", "0.2.0", ok=False)
    assert "nothing stands under Unreleased" in _release(clone, "teva-eval", "0.2.1", ok=False)

    data = clone / "packages/teva-data/CHANGELOG.md"
    data.write_text(data.read_text().replace("## Unreleased\n", f"## Unreleased\n\n{said}", 1))
    _run("git", "commit", "--quiet", "--all", "--message", "another change", cwd=clone)
    told = _release(clone, "teva-data", "0.2.0", "--output", tmp_path / "dist")
    assert re.search(r"teva-torch \S+ asks for teva-data\[inputs\]>=0.1,<0.2", told)


def _wheel(package, version, siblings, work):
    """A package under another version, that asks for its siblings by another range."""
    place = work / f"{package}-{version}"
    shutil.copytree(ROOT / "packages" / package, place)
    text = (place / "pyproject.toml").read_text()
    text = re.sub(r'^version = ".*"$', f'version = "{version}"', text, count=1, flags=re.MULTILINE)
    (place / "pyproject.toml").write_text(text.replace(">=0.1,<0.2", siblings))
    _run("uv", "build", "--quiet", "--wheel", "--no-sources", "--out-dir", work / "dist", place)
    return next((work / "dist").glob(f"{package.replace('-', '_')}-{version}-*.whl"))


def test_an_old_sibling_works_or_is_refused_with_a_clear_message(tmp_path):
    old = _wheel("teva-data", "0.1.0", "", tmp_path)
    within, beyond = (
        _wheel("teva-torch", version, siblings, tmp_path)
        for version, siblings in (("0.1.7", ">=0.1,<0.2"), ("0.2.0", ">=0.2,<0.3"))
    )
    environment = tmp_path / "environment"
    _run("uv", "venv", "--quiet", "--python", sys.executable, environment)
    python = environment / "bin/python"

    def install(*words, ok=True):
        return _run("uv", "pip", "install", "--quiet", "--no-config", "--python", python, *words, ok=ok)

    install("--no-deps", old, within)
    assert "0.1.7" in _run(python, "-c", "import teva_torch; print(teva_torch.__version__)")
    # The installer says no by itself ...
    refused = install("--find-links", tmp_path / "dist", old, beyond, ok=False)
    assert re.search(r"teva-torch.*depends on\s+teva-data.*0\.2", refused, flags=re.DOTALL), refused
    # ... and where it was told to look away, the package does.
    install("--no-deps", beyond)
    told = _run(python, "-c", "import teva_torch", ok=False).strip().splitlines()[-1]
    assert told == (
        "ImportError: teva-torch 0.2.0 goes with teva-data>=0.2,<0.3; found teva-data 0.1.0. Install them together: "
        "pip install --upgrade teva-torch teva-data"
    )
