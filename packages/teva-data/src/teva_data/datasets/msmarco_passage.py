"""MS MARCO passage ranking, with the hard negatives that RepLLaMA was trained on."""

from __future__ import annotations

from ._columns import FIELDS, QUERIES
from .declaration import Declaration, Source

DECLARATION = Declaration(
    name="msmarco-passage",
    title="Bing's questions and 8.8M passages of the web, with negatives of BM25 and coCondenser",
    layout="tevatron-v2",
    queries=Source(hub="Tevatron/msmarco-passage-new", columns=QUERIES, about="498k"),
    corpus=Source(
        hub="Tevatron/msmarco-passage-corpus-new",
        columns={"docid": "string", "title": "string", "text": "string", "image": "image", "source": "string"},
        about="8.84M",
    ),
    fields=FIELDS,
    splits=("train", "dev", "dl19", "dl20"),
    modalities=("text",),
    license="other",
    terms="MS MARCO's terms: for research, not for commerce",
    citation="Bajaj et al., MS MARCO: A Human Generated MAchine Reading COmprehension Dataset, arXiv:1611.09268",
    notes=(
        "Columns and splits of the queries, image and source of the corpus are those that Tevatron's conversion "
        "scripts write, from Tevatron/msmarco-passage-aug and Tevatron/msmarco-passage-corpus; docid, title and text "
        "of the corpus are those that Tevatron's loader reads.",
        "dev, dl19 and dl20 have no positives there: their judgements are MS MARCO's and TREC's qrels files. The plain "
        "files (collection.tsv, queries.*.tsv, qrels.*.tsv) are read by the layout `msmarco`.",
    ),
)
