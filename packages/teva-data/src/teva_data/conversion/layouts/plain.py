"""A plain layout of text and media: ``corpus``, ``queries.<split>`` and ``qrels.<split>`` with docid and query_id.

A source may hold several collections, whose names stand after the first word (``corpus.image``,
``queries.image.test``, ``qrels.image.test``); ``qrels.a2b.<split>`` judges documents of ``b`` for documents of ``a``.
Media lie beside the files, or in uncompressed archives there.
"""

from __future__ import annotations

from teva_data.conversion import Options, cells
from teva_data.conversion.joining import Fields, copy_corpus, copy_queries, judgement_rows, read_judgements
from teva_data.conversion.seen import Judged
from teva_data.conversion.tables import Tables
from teva_data.errors import DataError
from teva_data.pieces import KINDS
from teva_data.writing import DatasetWriter

CORPUS, QUERIES, QRELS = "corpus", "queries", "qrels"


def recognise(tables: Tables) -> str | None:
    """A corpus with ``docid``, and queries and judgements whose files name their split."""
    names = tables.names()
    corpora = [name for name in names if name == CORPUS or name.startswith(f"{CORPUS}.")]
    queries = [name for name in names if name.startswith(f"{QUERIES}.")]
    judged = any(name.startswith(f"{QRELS}.") for name in names)
    if not corpora or not queries or not judged:
        return None
    if "docid" not in tables.columns(corpora[0]) or "query_id" not in tables.columns(queries[0]):
        return None
    return "a corpus with 'docid', and files queries.<split> and qrels.<split>"


def convert(tables: Tables, writer: DatasetWriter, options: Options) -> None:
    """Write a collection.

    Of documents with media, the media alone are kept, since their texts are captions or transcripts, which are what is
    asked for; ``options.modalities`` names others.

    Raises:
        DataError: there are several collections and none is named, a table is missing, a row is bad, an id stands
            twice, or a judgement names an unknown query or document.
    """
    part = _part(tables, options)
    _, _, target = part.partition("2")
    asked = part.partition("2")[0] if target else None
    corpus = _joined(CORPUS, target or part)
    fields = Fields(modalities=_modalities(tables, corpus, options)).told(options.query_field, options.document_field)
    named = options.document_field is not None and "text" in (fields.modalities or ("text",))
    with copy_corpus(tables, tables.rows(corpus), writer, fields, named=named) as documents:
        for split, qrels in _splits(tables, part, options).items():
            queries = _joined(CORPUS, asked) if asked else _joined(QUERIES, part, split)
            if queries not in tables.names():
                raise DataError("no queries", file=tables.path or tables.name, found=tables.names(), expected=queries)
            how = fields
            if asked:  # a document's media ask; its text would be the answer
                how = Fields(query_id=("docid",), query=())
            place = str(next(iter(tables.files(queries)), queries))
            with Judged(writer.work) as judged:
                read_judgements(judgement_rows(tables, qrels), documents, judged, corpus=corpus)
                copy_queries(tables, tables.rows(queries), judged, writer, split, how, source=place)


def _part(tables: Tables, options: Options) -> str:
    """The collection that is meant; "" for the only one, without a name."""
    corpora = [name.removeprefix(CORPUS).removeprefix(".") for name in tables.names() if name.split(".")[0] == CORPUS]
    across = {
        name.split(".")[1] for name in tables.names() if name.startswith(f"{QRELS}.") and "2" in name.split(".")[1]
    }
    known = [*corpora, *sorted(each for each in across if {*each.split("2")} <= {*corpora})]
    place = tables.path or tables.name
    if not corpora:
        raise DataError("no corpus", file=place, found=tables.names(), expected="corpus.jsonl")
    if options.part is None:
        if len(corpora) > 1:
            raise DataError("several collections", file=place, found=known, hint="Name one with part (--part)")
        return corpora[0]
    if options.part not in known:
        raise DataError("no such part", file=place, field="part", found=options.part, expected=", ".join(known))
    return options.part


def _modalities(tables: Tables, corpus: str, options: Options) -> tuple[str, ...]:
    if options.modalities:
        return options.modalities
    row = tables.first(corpus)
    kinds = tuple(kind for kind in KINDS if cells.field_of(row, cells.MEDIA[kind]) is not None)
    return kinds if kinds and options.document_field is None else (*kinds, "text") if kinds else ()


def _splits(tables: Tables, part: str, options: Options) -> dict[str, str]:
    """The table of judgements of each split."""
    start = f"{_joined(QRELS, part)}."
    others = {name.split(".")[1] for name in tables.names() if name.startswith(f"{CORPUS}.")} if not part else set()
    found = {
        name.removeprefix(start): name
        for name in sorted(tables.names())
        if name.startswith(start) and name.split(".")[1] not in others
    }
    wanted = {split: name for split, name in found.items() if options.wants(split)}
    if not wanted:
        raise DataError(
            "no split with queries and judgements", file=tables.path or tables.name,
            found=sorted(found) or tables.names(), expected=", ".join(options.splits) or f"{start}<split>.tsv",
        )  # fmt: skip
    return wanted


def _joined(*words: str | None) -> str:
    return ".".join(word for word in words if word)
