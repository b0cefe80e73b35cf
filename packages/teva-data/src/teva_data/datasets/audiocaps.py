"""AudioCaps: captions of sounds."""

from __future__ import annotations

from ._columns import FIELDS
from .declaration import Declaration, Source

DECLARATION = Declaration(
    name="audiocaps",
    title="captions of ten-second recordings of AudioSet",
    layout="tevatron-v2",
    queries=Source(
        hub="Tevatron/audiocaps",
        columns={
            "query_id": "string", "query_text": "string", "positive_document_ids": "list[string]",
            "negative_document_ids": "list[string]",
        },
        about="49.6k",
    ),
    corpus=Source(hub="Tevatron/audiocaps-corpus", columns={"docid": "string", "audio": "audio"}, about="51.8k"),
    fields=FIELDS,
    splits=("train",),
    modalities=("text", "audio"),
    license="mit",
    terms="Of the captions (github.com/cdjkim/audiocaps); the recordings are of YouTube. Tevatron's cards state none",
    citation="Kim et al., AudioCaps: Generating Captions for Audios in The Wild, NAACL 2019, doi:10.18653/v1/N19-1011",
    notes=(
        "Not seen: columns and splits. They are those that Tevatron's loader reads: `audio` holds the recording, or a "
        "path of an .mp3 below the repository.",
        "The collection as first published (audiocap_id, youtube_id, start_time, caption; 49,838 training, 2,475 "
        "validation and 4,875 test captions) is read by the layout `captions`.",
    ),
)  # fmt: skip
