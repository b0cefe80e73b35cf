"""The code blocks of the documents, and what decides how each is tested.

A comment in the line above a block says so: ``<!-- setup -->`` holds ``export NAME=value`` lines, in whose place a test
puts its own values; ``<!-- notest: why -->`` needs what a test has not (a GPU, a cluster, a hub): its commands are
parsed, and not run.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
_BLOCK = re.compile(
    r"^(?:<!-- (?P<mark>setup|notest)(?:: (?P<why>[^\n]+?))? -->\n\n?)?(?P<indent> *)```(?P<language>[\w-]*)\n"
    r"(?P<text>.*?)^(?P=indent)```$",
    flags=re.MULTILINE | re.DOTALL,
)
COMMANDS = ("teva-data", "teva-torch", "teva-jax", "teva-infer", "teva-eval")


@dataclass(frozen=True)
class Block:
    """One fenced block.

    Attributes:
        page: its file.
        line: of its first line of text.
        language: as it says.
        text: what stands in it, without indent.
        mark: "setup", "notest" or "".
        why: the reason of a "notest".
    """

    page: Path
    line: int
    language: str
    text: str
    mark: str
    why: str

    @property
    def address(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def pages() -> list[Path]:
    """All pages of the documents."""
    return sorted(DOCS.rglob("*.md"))


def blocks(page: Path) -> list[Block]:
    """The blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    found = []
    for match in _BLOCK.finditer(text):
        indent = len(match["indent"])
        lines = [line[indent:] for line in match["text"].splitlines(keepends=True)]
        line = text.count("\n", 0, match.start("text")) + 1
        found.append(
            Block(page, line, match["language"], "".join(lines), match["mark"] or "", (match["why"] or "").strip())
        )
    return found


def run_here(page: Path) -> list[Block]:
    """The blocks that a test runs, in order."""
    return [each for each in blocks(page) if each.language in ("sh", "python") and each.mark != "notest"]


def exports(block: Block) -> list[str]:
    """The variables that a setup block sets; it may hold nothing else."""
    names = []
    for line in block.text.splitlines():
        if line.strip():
            match = re.fullmatch(r"export (\w+)=\S+( +#.*)?", line)
            assert match, f"{block.address}: a setup block holds `export NAME=value` alone; found {line!r}"
            names.append(match[1])
    return names


def commands(text: str) -> Iterator[list[str]]:
    """The words of every teva command in a text of shell, whatever stands before it (torchrun, srun, variables)."""
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>()")
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if set(word) <= set("|&;<>()"):
                yield from _of_ours(words)
                words = []
            else:
                words.append(word)


def _of_ours(words: list[str]) -> Iterator[list[str]]:
    if "install" in words:  # names of packages
        return
    for place, word in enumerate(words):
        module = re.fullmatch(r"teva_(\w+)\.cli", word)
        if word in COMMANDS or module:
            yield [word if module is None else f"teva-{module[1]}", *words[place + 1 :]]
            return
