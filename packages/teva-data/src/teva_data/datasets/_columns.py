"""Columns that several declared datasets share: Tevatron's form with documents apart."""

from __future__ import annotations

# As Tevatron's own conversion scripts write them (scripts/dataset_transform_scripts).
QUERIES = {
    "query_id": "string", "query_text": "string", "query_image": "image", "positive_document_ids": "list[string]",
    "negative_document_ids": "list[string]", "answer": "string", "source": "string",
}  # fmt: skip
DOCUMENTS = {"docid": "string", "image": "image", "text": "string", "source": "string"}
FIELDS = {
    "query_id": "query_id", "query_text": "query_text", "query_image": "query_image", "query_video": "query_video",
    "query_audio": "query_audio", "positive_document_ids": "positive_document_ids",
    "negative_document_ids": "negative_document_ids", "docid": "docid", "title": "title", "text": "document_text",
    "image": "document_image", "video": "document_video", "audio": "document_audio",
}  # fmt: skip
