"""MSR-VTT: captions of web videos."""

from __future__ import annotations

from ._columns import FIELDS
from .declaration import Declaration, Source

DECLARATION = Declaration(
    name="msrvtt",
    title="captions of 10,000 clips of web videos",
    layout="tevatron-v2",
    queries=Source(
        hub="Tevatron/msrvtt",
        columns={
            "query_id": "string", "query_text": "string", "positive_document_ids": "list[string]",
            "negative_document_ids": "list[string]",
        },
        about="10k",
    ),
    corpus=Source(
        hub="Tevatron/msrvtt-corpus", columns={"docid": "string", "video": "string"}, about="10k", assets="video"
    ),
    fields=FIELDS,
    splits=("train", "test"),
    modalities=("text", "video"),
    license="unknown",
    terms="For research; the clips belong to their makers. The cards state none",
    citation="Xu et al., MSR-VTT: A Large Video Description Dataset for Bridging Video and Language, CVPR 2016",
    notes=(
        "Not seen: columns and splits. They are those that Tevatron's loader reads; it takes `video` for a path below "
        "`msrvtt-corpus/video`.",
        "The clips have to be on a local disk: fetch the corpus's repository, unpack what it brings into its directory "
        "`video`, and convert with --local.",
        "The collection as first published (JSON of captions, clips beside them) is read by the layout `captions`.",
    ),
)  # fmt: skip
