"""ColPali's training data: queries for pages of documents, with negatives that Tevatron mined."""

from __future__ import annotations

from ._columns import DOCUMENTS, FIELDS, QUERIES
from .declaration import Declaration, Source

DECLARATION = Declaration(
    name="colpali-train",
    title="queries for pages of documents: arXiv figures, DocVQA, InfographicVQA, TAT-DQA and scraped PDFs",
    layout="tevatron-v2",
    queries=Source(hub="Tevatron/colpali", columns=QUERIES, about="118k"),
    corpus=Source(hub="Tevatron/colpali-corpus", columns=DOCUMENTS, about="119k"),
    fields=FIELDS,
    splits=("train",),
    modalities=("text", "image"),
    license="unknown",
    terms="The cards state none; the data is made of other datasets, each under its own terms",
    citation="Faysse et al., ColPali: Efficient Document Retrieval with Vision Language Models, arXiv:2407.01449 "
    "(vidore/colpali_train_set)",
    notes=(
        "Columns of both are those that Tevatron's conversion scripts write; the corpus's were seen on the hub too "
        "(text is null in all rows). The newest commit of the queries was 394d6a6 of 2025-02-09.",
        "The paper counts 127k pairs, the hub 118k queries and 119k pages.",
        "A page that several questions ask about stands in the corpus once for each of them: Tevatron's ids are row "
        "numbers of vidore/colpali_train_set.",
    ),
)
