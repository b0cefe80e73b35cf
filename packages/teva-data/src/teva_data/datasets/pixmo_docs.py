"""PixMo-Docs as retrieval data: questions about computer-made charts, tables, diagrams and documents."""

from __future__ import annotations

from ._columns import DOCUMENTS, FIELDS, QUERIES
from .declaration import Declaration, Source

DECLARATION = Declaration(
    name="pixmo-docs",
    title="synthetic questions about charts, tables, diagrams and documents, filtered, with hard negatives",
    layout="tevatron-v2",
    queries=Source(hub="Tevatron/pixmo-docs", columns=QUERIES, about="1.75M"),
    corpus=Source(hub="Tevatron/pixmo-docs-corpus", columns=DOCUMENTS, rows={"train": 251_165}),
    fields=FIELDS,
    splits=("train",),
    modalities=("text", "image"),
    license="odc-by",
    terms="Of the source, allenai/pixmo-docs; the cards of Tevatron's copies state none",
    citation="Deitke et al., Molmo and PixMo, arXiv:2409.17146",
    notes=(
        "The corpus's columns and number of rows are those of its card (newest commit seen: 51e3427); the columns of "
        "the queries are those of Tevatron's form and were not seen.",
        "The paper: a query whose own picture was not in DSE's top 100 was dropped; negatives come from the top 100.",
        "54 GB of pictures.",
    ),
)
