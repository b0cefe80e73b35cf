"""Release one package of the workspace: its version, its changelog, its wheel and sdist, a commit and a tag.

    uv run python .ci/release.py teva-data 0.1.1 --output dist

Nothing is uploaded: push the commit and the tag, and the release workflow (or `uv publish dist/*`) does that. Versions
follow semantic versioning; below 1.0 a change of the second number may break what uses the package, a change of the
third may not. Siblings are asked for by a range that ends at the next such number.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path.cwd()


def numbers(version: str) -> tuple[int, int, int]:
    """The three numbers of a version; an error where it has not three."""
    found = re.fullmatch(r"(\d+)\.(\d+)\.(\d+)", version)
    if found is None:
        sys.exit(f"version: found {version!r}; expected three numbers, such as 0.2.0")
    first, second, third = (int(each) for each in found.groups())
    return first, second, third


def git(*words: str) -> str:
    """What git prints."""
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def follows(old: tuple[int, int, int], new: tuple[int, int, int]) -> bool:
    """Whether a version is one of the three that may come after another; its first release may have its own number."""
    first, second, third = old
    return new in ((first + 1, 0, 0), (first, second + 1, 0), (first, second, third + 1))


def noted(changelog: str) -> str:
    """What stands under "Unreleased"."""
    found = re.search(r"^## Unreleased\n(.*?)(?=^## |\Z)", changelog, flags=re.MULTILINE | re.DOTALL)
    return found[1].strip() if found else ""


def left_behind(package: str, version: str) -> list[str]:
    """The siblings whose range does not hold the new version."""
    told = []
    for path in sorted(ROOT.glob("packages/*/pyproject.toml")):
        project = tomllib.loads(path.read_text())["project"]
        lines = [*project["dependencies"], *(one for each in project["optional-dependencies"].values() for one in each)]
        for line in lines:
            found = re.match(rf"{package}(?:\[[^\]]*\])?>=([\d.]+),<([\d.]+)", line)
            if found is not None:
                least, below = (tuple(map(int, (each + ".0.0").split(".")[:3])) for each in found.groups())
                if not least <= numbers(version) < below:
                    told.append(f"{project['name']} {project['version']} asks for {found[0]}")
    return told


def main() -> None:
    """Check everything, then change everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", choices=sorted(path.name for path in (ROOT / "packages").iterdir()))
    parser.add_argument("version", help="three numbers")
    parser.add_argument("--output", type=Path, default=Path("dist"), help="where the wheel and the sdist go")
    options = parser.parse_args()
    package, version = options.package, options.version
    project, log = (ROOT / "packages" / package / name for name in ("pyproject.toml", "CHANGELOG.md"))
    old = tomllib.loads(project.read_text())["project"]["version"]
    tag, tags = f"{package}-v{version}", git("tag").split()
    first = not any(one.startswith(f"{package}-v") for one in tags)
    if git("status", "--porcelain"):
        sys.exit("the tree has changes that are not committed. Commit them first")
    if tag in tags:
        sys.exit(f"the tag {tag} is there already")
    if not (first and version == old) and not follows(numbers(old), numbers(version)):
        sys.exit(f"{package} is at {old}: found {version}; expected the next first, second or third number")
    if not (first and version == old) and not noted(log.read_text()):
        sys.exit(f"{log}: nothing stands under Unreleased. Say what has changed")
    if version != old:
        project.write_text(project.read_text().replace(f'\nversion = "{old}"\n', f'\nversion = "{version}"\n', 1))
        log.write_text(log.read_text().replace("## Unreleased\n", f"## Unreleased\n\n## {version}\n", 1))
    subprocess.run(["uv", "build", "--quiet", "--package", package, "--out-dir", options.output], cwd=ROOT, check=True)
    if version != old:
        git("add", str(project), str(log))
        git("commit", "--quiet", "--message", f"{package} {version}")
    git("tag", "--annotate", tag, "--message", f"{package} {version}")
    for line in left_behind(package, version):
        print(f"note: {line}: it goes on with the last release before, until it is released with another range")
    print(f"{tag}; {options.output}/ holds its wheel and sdist. Next: git push origin HEAD {tag}")


if __name__ == "__main__":
    main()
