"""`teva-jax init`: a recipe with comments, its limits of length taken from the data."""

from __future__ import annotations

from pathlib import Path

from teva_data import proposal
from teva_data.sections import Section

from .recipe import JaxSection

_OWN: dict[str, type[Section]] = {"jax": JaxSection}
SECTIONS: dict[str, type[Section]] = {**proposal.SECTIONS, **_OWN}


def propose(data: str | Path, model: str, *, split: str = "train", output: str | None = None) -> str:
    """A recipe for a dataset and a model, as YAML; arguments as :func:`teva_data.proposal.propose` has them."""
    return proposal.propose(data, model, _OWN, split=split, output=output)


def key_table() -> str:
    """Every key of a recipe with its default and what it means, as text."""
    return proposal.key_table(_OWN)
