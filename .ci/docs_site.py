"""What the site has beside the pages of docs/: written when it is built, from the code itself.

mkdocs calls the functions ``on_...`` (``hooks`` in mkdocs.yml). In a page, a comment ``<!-- generated: NAME -->`` is
replaced by what :data:`PARTS` has under that name, and ``<!-- source: FILE -->`` by that file.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
TRAINERS = ("teva_torch", "teva_jax")
COMMANDS = ("teva-data", "teva-torch", "teva-jax", "teva-infer", "teva-eval")
_SOURCE = re.compile(r"<!-- source: (\S+) -->")
_ROLE = re.compile(r":(?:class|func|meth|mod|data|attr|exc):(<code>)[~.]*([^<]+</code>)")
_ELSEWHERE = re.compile(r"\]\((?:\.\./)+(benchmarks/results/[^)]+\.png)\)")


def help_of(command: str, *words: str) -> str:
    """What ``COMMAND WORDS --help`` prints, 100 columns wide."""
    (point,) = entry_points(group="console_scripts", name=command)
    os.environ["COLUMNS"] = "100"
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        point.load()([*words, "--help"])
    return re.sub(r"\x1b\[[0-9;]*m", "", printed.getvalue())


def verbs_of(command: str) -> list[str]:
    """The verbs of a command, as its usage line names them."""
    found = re.search(r"\{([\w,-]+)\}", re.sub(r"\s+", "", help_of(command)))
    assert found, f"{command} --help names no verbs"
    return found.group(1).split(",")


def commands() -> str:
    """Every verb's help."""
    parts = []
    for command in COMMANDS:
        parts.append(f"## {command}\n")
        for verb in verbs_of(command):
            text = help_of(command, verb)
            if verb == "train":  # the keys have a page of their own
                text = re.sub(r"Keys of a recipe and their defaults:.*?\n(?=╭)", "", text, flags=re.DOTALL)
            parts.append(f"### {command} {verb}\n\n```text\n{text.strip()}\n```\n")
    return "\n".join(parts)


def recipe_keys() -> str:
    """Every key of a recipe: default and meaning."""
    from teva_data import recipe as shared
    from teva_data.sections import describe
    from teva_jax.recipe import JaxSection
    from teva_torch.recipe import TorchSection

    sections = {
        "model": shared.ModelSection, "prompts": shared.PromptsSection, "data": shared.DataSection,
        "data.datasets.N": shared.DatasetSection, "loss": shared.LossSection, "train": shared.TrainSection,
        "torch": TorchSection, "jax": JaxSection,
    }  # fmt: skip
    parts = []
    for name, kind in sections.items():
        rows = [
            f"| `{key}` | {f'`{default}`' if default else ''} | {text.replace('|', chr(92) + '|')} |"
            for key, default, text in describe(kind, name)
        ]
        parts.append("\n".join([f"## {name}\n", "| key | default | |", "|---|---|---|", *rows, ""]))
    return "\n".join(parts)


PARTS: dict[str, Callable[[], str]] = {"commands": commands, "recipe keys": recipe_keys}


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put generated parts in, and let links to pictures outside of docs/ point to where the site has them."""
    for name, make in PARTS.items():
        mark = f"<!-- generated: {name} -->"
        if mark in markdown:
            markdown = markdown.replace(mark, make())
    markdown = _SOURCE.sub(lambda match: _as_block(ROOT / match[1]), markdown)
    return _ELSEWHERE.sub(r"](\1)", markdown)


def on_page_content(html: str, **_: Any) -> str:
    """Docstrings name things by roles of reStructuredText; the site shows the name."""
    return _ROLE.sub(r"\1\2", html)


def _as_block(file: Path) -> str:
    language = {".py": "python", ".toml": "toml"}[file.suffix]
    return f"```{language}\n{file.read_text(encoding='utf-8').rstrip()}\n```"


def on_config(config: Any) -> Any:
    """A page that has no place in the navigation yet stands at the end of "In depth"."""
    placed = set(re.findall(r"[\w/-]+\.md", str(config["nav"])))
    (depth,) = (part["In depth"] for part in config["nav"] if "In depth" in part)
    depth += sorted({file.relative_to(ROOT / "docs").as_posix() for file in ROOT.glob("docs/**/*.md")} - placed)
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the pictures that pages show from elsewhere, and the schema of recipes."""
    from mkdocs.structure.files import File

    from teva_data.shipped import schema_text
    from teva_torch.recipe import OWNERS

    for page in ROOT.glob("docs/**/*.md"):
        for name in _ELSEWHERE.findall(page.read_text(encoding="utf-8")):
            files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    files.append(File.generated(config, "recipe.schema.json", content=schema_text(OWNERS)))
    return files
