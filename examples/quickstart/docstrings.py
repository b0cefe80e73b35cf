"""A retrieval dataset that every machine has: the documentation strings of Python's own standard library.

The summary sentence of a documentation string is the query, what comes after it is the document that answers it. The
source files are parsed, nothing of them is imported or run. Whole packages are held out: a test query asks about a
package of which training has seen nothing.
"""

from __future__ import annotations

import ast
import platform
import re
import sysconfig
import tokenize
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from teva_data.errors import DataError
from teva_data.files import fingerprint
from teva_data.records import Document, Query

from .splitting import hold_out

NAME = "Python standard library, documentation strings"
LICENSE = "PSF-2.0"
HELD_OUT = 0.25
"""Share of the queries whose packages are held out."""

# Tests, demonstrations, other people's packages, and text that is no documentation.
_LEFT_OUT = {
    "test", "tests", "idle_test", "idlelib", "turtledemo", "site-packages", "dist-packages", "lib-dynload",
    "__pycache__", "ensurepip", "pydoc_data", "__phello__", "this", "antigravity",
}  # fmt: skip
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
_QUERY_WORDS = range(4, 41)
_DOCUMENT_WORDS = 8
# A full stop ends a sentence where a capital, a quote or a name in asterisks follows; not after an abbreviation.
_SENTENCE_END = re.compile(r"(?<!\be\.g)(?<!\bi\.e)(?<!\betc)(?<!\bvs)(?<!\bcf)(?<!\b[A-Z])[.!?]\s+(?=[A-Z\"'`*(<_])")
_WORD = re.compile(r"[A-Za-z]{2,}")


@dataclass(frozen=True, slots=True)
class DocString:
    """One documentation string.

    Attributes:
        module: dotted name of the module.
        name: dotted name inside the module, with ``#2`` for the second definition of one name; empty for the module's
            own.
        text: without its indentation.
    """

    module: str
    name: str
    text: str

    @property
    def docid(self) -> str:
        """Module and name, e.g. ``queue:Queue.get``."""
        return f"{self.module}:{self.name}" if self.name else self.module


def standard_library() -> Path:
    """The directory that holds the sources of the running Python's standard library.

    Raises:
        DataError: the sources are not installed as files.
    """
    root = Path(sysconfig.get_paths()["stdlib"])
    if not (root / "ast.py").is_file():
        raise DataError(
            "the sources of the standard library are not there", file=root, expected="ast.py and the rest as files",
            hint="Use a Python that has them (uv's and python.org's do), or give --data",
        )  # fmt: skip
    return root


def build(root: Path) -> tuple[list[Document], list[Query], list[Query]]:
    """Documents, training queries and held-out queries of a source tree; the same tree gives the same lists.

    Equal documents are one document, equal queries one query with several answers. The corpus holds the documents of
    both sides. No answer of a held-out query is an answer of a training query.
    """
    documents: dict[str, Document] = {}
    answers: dict[str, list[str]] = defaultdict(list)
    texts: dict[str, str] = {}
    for found in read_tree(root):
        query, rest = take_apart(found.text)
        if len(_WORD.findall(rest)) < _DOCUMENT_WORDS:
            continue
        document = documents.setdefault(_folded(rest), Document(found.docid, rest))
        if _is_query(query, rest):
            key = _folded(query)
            texts.setdefault(key, query)
            if document.docid not in answers[key]:
                answers[key].append(document.docid)
    queries = [
        Query(query_id=f"q-{fingerprint(key)}", query_text=texts[key], positive_document_ids=tuple(docids))
        for key, docids in answers.items()
    ]
    return list(documents.values()), *_split(queries)


def read_tree(root: Path) -> Iterator[DocString]:
    """All documentation strings below a directory, by path and then in the order of the source.

    Raises:
        DataError: a file cannot be read or parsed.
    """
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        if any(part in _LEFT_OUT or part.startswith("config-") for part in parts):
            continue
        module = ".".join(parts).removesuffix(".__init__")
        seen: Counter[str] = Counter()
        for name, text in _docstrings(_parse(path), ""):
            seen[name] += 1
            yield DocString(module, name if seen[name] == 1 else f"{name}#{seen[name]}", text)


def take_apart(text: str) -> tuple[str, str]:
    """The first sentence of a documentation string on one line, and everything after it as it stands."""
    paragraph, _, rest = text.strip().partition("\n\n")
    if end := _SENTENCE_END.search(paragraph):
        paragraph, more = paragraph[: end.start() + 1], paragraph[end.end() :]
        rest = f"{more}\n\n{rest}"
    return " ".join(paragraph.split()).removesuffix("."), rest.strip()


def source() -> str:
    """Where the text is from, for ``dataset.yaml``."""
    return f"{platform.python_implementation()} {platform.python_version()}"


def package(docid: str) -> str:
    """The top-level package of a document; ``_pydecimal`` and ``_pyio`` count with what they implement."""
    top = docid.partition(":")[0].partition(".")[0].lstrip("_")
    return top.removeprefix("py") if top in ("pydecimal", "pyio") else top.partition("_")[0]


def _split(queries: list[Query]) -> tuple[list[Query], list[Query]]:
    """Hold whole packages out, in the order of a hash of their names, until the share is reached."""
    sizes: dict[str, int] = defaultdict(int)
    for query in queries:
        sizes[package(query.positive_document_ids[0])] += 1
    held: set[str] = set()
    count = 0
    for name in sorted(sizes, key=fingerprint):
        if count + sizes[name] <= HELD_OUT * len(queries):
            held.add(name)
            count += sizes[name]
    return hold_out(queries, lambda query: all(package(docid) in held for docid in query.positive_document_ids))


def _parse(path: Path) -> ast.Module:
    try:
        with tokenize.open(path) as file:
            return ast.parse(file.read(), filename=str(path))
    except (SyntaxError, UnicodeDecodeError, OSError) as error:
        line = error.lineno if isinstance(error, SyntaxError) else None
        raise DataError(f"cannot be parsed as Python: {error}", file=path, line=line) from error


def _docstrings(node: ast.AST, name: str) -> Iterator[tuple[str, str]]:
    if isinstance(node, _DOCUMENTED) and (text := ast.get_docstring(node)):
        yield name, text
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _docstrings(child, f"{name}.{child.name}" if name else child.name)
        elif isinstance(child, ast.stmt | ast.ExceptHandler):
            yield from _docstrings(child, name)


def _is_query(text: str, document: str) -> bool:
    """Whether a first sentence can stand as a question: words, not a signature, and no copy in the document."""
    return (
        len(_WORD.findall(text)) in _QUERY_WORDS
        and not text.endswith((":", ","))
        and ">>>" not in text
        and "->" not in text
        and "=>" not in text
        and _folded(text) not in _folded(document)
    )


def _folded(text: str) -> str:
    return " ".join(text.casefold().split())
