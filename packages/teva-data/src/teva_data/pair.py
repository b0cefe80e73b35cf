"""Two artifacts that belong together: queries and documents have encoders of their own.

A pair's directory holds two whole artifacts, each of which every runtime loads as it stands, and a ``teva.json`` that
says which is which: ``encoders: {query: query, document: document}``.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

from .artifact import Artifact, encoders_of
from .errors import RecipeError
from .files import fingerprint
from .hub import fetch
from .layout import ROLES
from .recipe import Recipe
from .rendering import load_tokenizer
from .seals import read_record, write_record


@dataclasses.dataclass(frozen=True)
class ArtifactPair:
    """The encoders of queries and of documents.

    Attributes:
        query: encodes queries.
        document: encodes documents.
        path: the directory that holds both; None where they were never together.
    """

    query: Artifact
    document: Artifact
    path: Path | None = None

    def of(self, role: str) -> Artifact:
        """The half of a role."""
        return self.query if role == "query" else self.document

    @property
    def front(self) -> Artifact:
        """What both have in common, as one description: the query half with each half's own prompt."""
        prompts = {role: self.of(role).prompts[role] for role in ROLES}
        return dataclasses.replace(self.query, prompts=prompts)

    @property
    def fingerprint(self) -> str:
        """Name of what decides the vectors of both."""
        return fingerprint("pair", self.query.fingerprint, self.document.fingerprint)

    @functools.cached_property
    def teva(self) -> dict[str, Any]:
        """``teva.json`` of the directory that holds both; empty where there is none."""
        if self.path is None:
            return {}
        return read_record(self.path)


def load_artifact(
    name_or_path: str | Path, *, revision: str | None = None, token: str | None = None, offline: bool = False
) -> Artifact | ArtifactPair:
    """A model, or a pair of them; arguments and errors are those of :meth:`Artifact.load`."""
    options: dict[str, Any] = {"revision": revision, "token": token, "offline": offline}
    path = fetch(name_or_path, **options)
    if not encoders_of(path):
        return Artifact.load(name_or_path, **options)
    query, document = (Artifact.load(name_or_path, role=role, **options) for role in ROLES)
    return ArtifactPair(query, document, path)


def load_base(recipe: Recipe) -> Artifact | ArtifactPair:
    """What a recipe's training starts from: one model, or with ``model.tied: false`` one for each role.

    Raises:
        ArtifactError: a model cannot be read.
        RecipeError: two models that cannot be trained together.
    """
    model = recipe.model
    if model.tied:
        return Artifact.load(model.name, revision=model.revision)
    query = Artifact.load(model.name, revision=model.revision, role="query")
    name, revision = model.name, model.revision
    if model.document_name is not None:
        name, revision = model.document_name, model.document_revision
    pair = ArtifactPair(query, Artifact.load(name, revision=revision, role="document"))
    if pair.query.path != pair.document.path:
        _expect_fit(pair, recipe)
    return pair


def write_pair(directory: Path, teva: dict[str, Any], card: str) -> None:
    """Make two artifacts that lie in ``directory/query`` and ``directory/document`` a pair.

    Each half's ``teva.json`` gets both fingerprints, so that what one half encodes is known to belong to the other's.

    Args:
        directory: holds the two.
        teva: the record for the directory's own ``teva.json``.
        card: Markdown.
    """
    halves = {role: Artifact.load(directory / role) for role in ROLES}
    known = {role: half.fingerprint for role, half in halves.items()}
    for role, half in halves.items():
        write_record(half.path, {**half.teva, "pair": {"role": role, **known}})
    write_record(directory, {**teva, "encoders": {role: role for role in ROLES}})
    (directory / "README.md").write_text(card, encoding="utf-8")


def _expect_fit(pair: ArtifactPair, recipe: Recipe) -> None:
    """Refuse halves that the recipe's one rendering, pooling and dimension do not hold for."""
    query, document, model = pair.query, pair.document, recipe.model
    names = f"of {query.name} (queries) and {document.name} (documents)"
    if query.dim != document.dim:
        raise RecipeError(
            f"model.document_name: the hidden sizes {names}: found {query.dim} and {document.dim}; expected the same, "
            "since their vectors are multiplied"
        )
    for key in ("pooling", "normalize"):
        one, other = getattr(query, key), getattr(document, key)
        if getattr(model, key) is None and one != other and document.pooling is not None:
            raise RecipeError(f"model.{key}: that {names}: found {one} and {other}; set the one that both shall have")
    limit = max(model.query_max_length, model.document_max_length)
    if limit > document.positions:
        raise RecipeError(
            f"model.document_max_length, model.query_max_length: found {limit}; expected at most {document.positions}, "
            f"the positions of {document.name}"
        )
    if _tokenizer(query) != _tokenizer(document):
        raise RecipeError(
            f"model.document_name: the tokenizers {names} differ; expected the same. Take two models of one family"
        )


def _tokenizer(artifact: Artifact) -> tuple[str, bool]:
    """All that decides how a text becomes tokens but the limit of length."""
    backend = load_tokenizer(artifact).backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    return fingerprint(json.loads(backend.to_str())), artifact.lowercase
