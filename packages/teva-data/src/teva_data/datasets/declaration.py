"""What is declared of a dataset."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Modality = Literal["text", "image", "video", "audio"]


class Source(BaseModel):
    """One repository of a hub.

    Attributes:
        hub: ``owner/name``.
        revision: the commit that is read; None: not pinned, the newest one.
        columns: type of each column, as ``datasets`` names it.
        rows: how many rows each split has, where that is known to the row.
        about: how many rows there are in all, as the hub shows it.
        assets: directory of the repository that paths in media columns start from.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    hub: str = Field(pattern=r"^[\w.\-]+/[\w.\-]+$")
    revision: str | None = None
    columns: dict[str, str]
    rows: dict[str, int] = Field(default_factory=dict)
    about: str | None = None
    assets: str | None = None

    @property
    def folder(self) -> str:
        """What a local copy's directory is called."""
        return self.hub.partition("/")[2]


class Declaration(BaseModel):
    """A dataset that teva knows how to get and to convert.

    Attributes:
        name: what it is called here.
        title: one line on what it is.
        layout: in which layout it is published; see :data:`teva_data.conversion.LAYOUTS`.
        queries: where the queries are, and the documents too, where ``corpus`` is None.
        corpus: where the documents are.
        fields: field of teva's for each column that is read; columns that are not named are not kept.
        splits: splits of the queries.
        modalities: what queries and documents are made of.
        languages: codes of the languages.
        license: the licence, as a hub's short name; ``unknown`` where none is stated.
        terms: more on the licence.
        citation: the paper.
        notes: what was not verified, and what is good to know.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    title: str
    layout: str
    queries: Source
    corpus: Source | None = None
    fields: dict[str, str]
    splits: tuple[str, ...]
    modalities: tuple[Modality, ...]
    languages: tuple[str, ...] = ("en",)
    license: str
    terms: str = ""
    citation: str
    notes: tuple[str, ...] = ()

    @property
    def sources(self) -> list[Source]:
        """The repositories."""
        return [self.queries] if self.corpus is None else [self.queries, self.corpus]

    def describe(self) -> str:
        """The declaration as text, for people."""
        lines = [f"{self.name}: {self.title}", "", f"layout      {self.layout}"]
        for role, source in (("queries", self.queries), ("documents", self.corpus)):
            if source is None:
                continue
            revision = source.revision or "not pinned: the newest revision is read"
            rows = [f"{split} {count:,}" for split, count in source.rows.items()] or [source.about or "not known"]
            lines += [f"{role:<11} {source.hub}", f"  revision  {revision}", f"  rows      {', '.join(rows)}"]
            lines += [f"  {name:<26} {kind}{_arrow(self.fields.get(name))}" for name, kind in source.columns.items()]
            if source.assets:
                lines.append(f"  media     below {source.assets}/")
        terms = f"{self.license}. {self.terms}" if self.terms else self.license
        lines += [
            f"splits      {', '.join(self.splits)}", f"modalities  {', '.join(self.modalities)}",
            f"languages   {', '.join(self.languages)}", f"licence     {terms}",
            f"cite        {self.citation}", *(f"note        {note}" for note in self.notes),
        ]  # fmt: skip
        return "\n".join(lines)


def _arrow(field: str | None) -> str:
    return f" -> {field}" if field else " (not kept)"
