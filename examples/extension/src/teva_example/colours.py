"""A declared dataset: where it lies, its layout, its terms. `teva-data convert colours DATA` gets and converts it."""

from __future__ import annotations

from teva_data.datasets import Declaration, Source

DECLARATION = Declaration(
    name="colours",
    title="questions about colours, answered by short texts",
    layout="tevatron-v2",
    queries=Source(
        hub="example/colours",
        columns={
            "query_id": "string",
            "query_text": "string",
            "positive_document_ids": "list[string]",
            "negative_document_ids": "list[string]",
        },
        rows={"train": 4, "test": 2},
    ),
    corpus=Source(hub="example/colours-corpus", columns={"docid": "string", "text": "string"}, rows={"train": 4}),
    fields={
        "query_id": "query_id",
        "query_text": "query_text",
        "positive_document_ids": "positive_document_ids",
        "negative_document_ids": "negative_document_ids",
        "docid": "docid",
        "text": "document_text",
    },
    splits=("train", "test"),
    modalities=("text",),
    license="cc0-1.0",
    citation="made up for this example",
    notes=("The repository does not exist: read a local copy with --local.",),
)
