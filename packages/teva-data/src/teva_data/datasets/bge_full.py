"""BGE's training data for text retrieval, 1.84M queries with hard negatives, as the paper trains on it."""

from __future__ import annotations

from .declaration import Declaration, Source

PASSAGES = "list[{docid: string, text: string, title: string}]"

DECLARATION = Declaration(
    name="bge-full",
    title="web search, question answering, fact verification and more, from BGE's full training data",
    layout="tevatron-v1",
    queries=Source(
        hub="Tevatron/bge-ir",
        columns={
            "query_id": "string", "query": "string", "positive_passages": PASSAGES, "negative_passages": PASSAGES,
        },
        rows={"train": 1_840_629},
    ),
    fields={
        "query_id": "query_id", "query": "query_text", "positive_passages": "positive_document_ids and documents",
        "negative_passages": "negative_document_ids and documents",
    },
    splits=("train",),
    modalities=("text",),
    license="unknown",
    terms="The card states none; the data is made of other datasets, each under its own terms (MS MARCO: research, "
    "not commercial)",
    citation="Li et al., Making Text Embedders Few-Shot Learners, arXiv:2409.15700 (cfli/bge-full-data)",
    notes=(
        "Columns, split and number of rows are those of the repository's card. Its newest commit was 6314876 of "
        "2025-02-18 when it was looked at.",
        "62 GB to download (112 GB of rows, since every row carries its passages); each passage is kept once here.",
        "The source is cfli/bge-full-data (query, pos, neg by subset). A variant with prompts in its rows, "
        "Tevatron/bge-ir-prompt, has as many rows; its columns were not looked at.",
    ),
)  # fmt: skip
