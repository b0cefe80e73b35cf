"""Real collections written in the layouts that `teva-data convert` reads, and what each must come to.

Everything here is plain Python (json, gzip, tarfile; pyarrow for the hub's Parquet), so that it shares no code with the
converters. A layout that is new in the registry gets a function here, entered in :data:`REPLICAS`; without one the
claim is not met.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import random
import re
import tarfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from teva_data.dataset import Dataset

NEGATIVES = 5


@dataclass(frozen=True)
class Doc:
    """A document: title, text, and the bytes of its picture, clip or recording by kind."""

    title: str = ""
    text: str = ""
    media: Mapping[str, bytes] = field(default_factory=dict)

    def key(self) -> str:
        """A name made of the content alone."""
        parts = [self.title.encode(), self.text.encode(), *(kind.encode() + data for kind, data in self.media.items())]
        return hashlib.sha256(b"".join(len(part).to_bytes(8, "big") + part for part in parts)).hexdigest()


@dataclass
class Collection:
    """A collection as its files have it: documents by id; of each split, texts and graded judgements by query id."""

    name: str
    documents: dict[str, Doc]
    queries: dict[str, dict[str, str]]
    qrels: dict[str, dict[str, dict[str, int]]]

    def positives(self, split: str, query_id: str) -> list[str]:
        return [docid for docid, grade in self.qrels[split][query_id].items() if grade > 0]

    def negatives(self, split: str) -> dict[str, list[str]]:
        """Documents drawn at random for each query, none of them positive."""
        draw, ids = random.Random(split), list(self.documents)
        found = {}
        for query_id in self.queries[split]:
            good = set(self.positives(split, query_id))
            found[query_id] = [docid for docid in draw.sample(ids, NEGATIVES + len(good)) if docid not in good][
                :NEGATIVES
            ]
        return found

    @property
    def is_text(self) -> bool:
        return not any(each.media for each in self.documents.values())


@dataclass
class Content:
    """What a dataset holds, without the order of lists: documents; of each split, queries and judgements.

    A query is its text, its positives and its negatives. Names are ids, or made of contents where ids are not kept.
    """

    documents: dict[str, Doc]
    queries: dict[str, dict[str, tuple[str, frozenset[str], frozenset[str]]]]
    qrels: dict[str, dict[str, dict[str, int]]]


@dataclass(frozen=True)
class Replica:
    """A collection in a layout: what to convert, with what options, and what must come out.

    Args:
        source: file or directory.
        expected: of the converted dataset.
        options: of :func:`teva_data.convert`.
        ids: whether ids are kept; else documents and queries are compared by what they hold.
    """

    source: Path
    expected: Content
    options: Mapping[str, Any] = field(default_factory=dict)
    ids: bool = True


def load(data: Path, name: str, limit: int | None = None) -> Collection:
    """A collection of the data directory; with ``limit``, the first queries of each split and what they name."""
    place = data / name
    archives = {}
    for path in sorted(place.glob("*.tar")):
        with tarfile.open(path) as archive:
            archives.update({each.name: archive.extractfile(each).read() for each in archive if each.isfile()})
    documents = {}
    for row in _lines(place / "corpus.jsonl.gz"):
        media = {kind: archives[row[kind]] for kind in ("image", "video", "audio") if row.get(kind)}
        documents[row["docid"]] = Doc(media=media) if media else Doc(row.get("title", ""), row["text"])
    queries, qrels = {}, {}
    for split in ("test", "train"):
        if not (place / f"queries.{split}.jsonl.gz").exists():
            continue
        queries[split] = {row["query_id"]: row["text"] for row in _lines(place / f"queries.{split}.jsonl.gz")}
        qrels[split] = {}
        path = next(place.glob(f"qrels.{split}.tsv*"))
        with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as file:
            for line in list(file)[1:]:
                query_id, docid, grade = line.rstrip("\n").split("\t")
                qrels[split].setdefault(query_id, {})[docid] = int(grade)
        kept = [query_id for query_id in queries[split] if query_id in qrels[split]][:limit]
        queries[split] = {query_id: queries[split][query_id] for query_id in kept}
        qrels[split] = {query_id: qrels[split][query_id] for query_id in kept}
    if limit is not None:
        named = {docid for judged in qrels.values() for grades in judged.values() for docid in grades}
        documents = {docid: each for docid, each in documents.items() if docid in named}
    return Collection(name, documents, queries, qrels)


def _lines(path: Path) -> Iterable[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    return path


def write_qrels(path: Path, qrels: Mapping[str, Mapping[str, int]], header: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [f"{query_id}\t{docid}\t{grade}" for query_id, judged in qrels.items() for docid, grade in judged.items()]
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")


def whole(collection: Collection, *, negatives: bool = False) -> Content:
    """All of a collection, under its own ids, with every judgement."""
    queries = {}
    for split, texts in collection.queries.items():
        drawn = collection.negatives(split) if negatives else {}
        queries[split] = {
            query_id: (text, frozenset(collection.positives(split, query_id)), frozenset(drawn.get(query_id, ())))
            for query_id, text in texts.items()
        }
    return Content(collection.documents, queries, collection.qrels)


def by_content(content: Content) -> Content:
    """The same without ids: documents named by what they hold, queries by their texts (equal ones become one)."""
    names = {docid: each.key() for docid, each in content.documents.items()}
    queries: dict[str, dict[str, Any]] = {}
    qrels: dict[str, dict[str, dict[str, int]]] = {}
    for split, by_id in content.queries.items():
        found: dict[str, Any] = queries.setdefault(split, {})
        for text, positives, negatives in by_id.values():
            _, good, bad = found.get(text, (text, frozenset(), frozenset()))
            good |= {names[docid] for docid in positives}
            found[text] = (text, good, bad | {names[docid] for docid in negatives})
        for text, (_, good, bad) in found.items():
            found[text] = (text, good, bad - good)
    for split, judged in content.qrels.items():
        texts = {query_id: text for query_id, (text, _, _) in content.queries[split].items()}
        graded = qrels.setdefault(split, {})
        for query_id, grades in judged.items():
            graded.setdefault(texts[query_id], {}).update({names[docid]: grade for docid, grade in grades.items()})
    return Content({each.key(): each for each in content.documents.values()}, queries, qrels)


def named_only(content: Content, *, judged: tuple[str, ...]) -> Content:
    """Without the documents that no query names, and with the positives of some splits as their judgements."""
    named = {
        docid for queries in content.queries.values() for _, good, bad in queries.values() for docid in (*good, *bad)
    }
    qrels = {
        split: {query_id: dict.fromkeys(good, 1) for query_id, (_, good, _) in queries.items()}
        for split, queries in content.queries.items()
        if split in judged
    }
    documents = {docid: each for docid, each in content.documents.items() if docid in named}
    return Content(documents, content.queries, qrels)


def joined(collection: Collection) -> Collection:
    """The collection for a layout without titles: title and text are one text."""
    documents = {docid: Doc("", f"{each.title} {each.text}".strip()) for docid, each in collection.documents.items()}
    return Collection(collection.name, documents, collection.queries, collection.qrels)


def content_of(path: Path) -> Content:
    """What a dataset of teva holds."""
    dataset = Dataset.open(path)
    documents = {
        each.docid: Doc(each.title, each.document_text, {piece.kind: piece.read() for piece in each.media})
        for each in dataset.corpus.documents(0, len(dataset.corpus))
    }
    queries = {
        split: {
            each.query_id: (
                each.query_text, frozenset(each.positive_document_ids), frozenset(each.negative_document_ids),
            )
            for each in dataset.queries(split)
        }
        for split in dataset.splits
    }  # fmt: skip
    judged = [split for split in dataset.splits if any((path / "qrels").glob(f"{split}.tsv*"))]
    return Content(documents, queries, {split: dataset.qrels(split) for split in judged})


def beir(collection: Collection, place: Path) -> Replica | None:
    if not collection.is_text:
        return None
    rows = collection.documents.items()
    write_jsonl(place / "corpus.jsonl", ({"_id": d, "title": x.title, "text": x.text, "metadata": {}} for d, x in rows))
    texts = {query_id: text for queries in collection.queries.values() for query_id, text in queries.items()}
    write_jsonl(place / "queries.jsonl", ({"_id": query_id, "text": text} for query_id, text in texts.items()))
    for split, qrels in collection.qrels.items():
        write_qrels(place / f"qrels/{split}.tsv", qrels, "query-id\tcorpus-id\tscore")
    return Replica(place, whole(collection), {"layout": "beir"})


def pairs(collection: Collection, place: Path) -> Replica | None:
    if not collection.is_text:
        return None
    file = place / "pairs.csv"
    with file.open("w", encoding="utf-8", newline="") as lines:
        writer = csv.writer(lines, lineterminator="\n")
        writer.writerow(["question", "title", "passage"])
        for query_id, text in collection.queries["train"].items():
            for docid in collection.positives("train", query_id):
                document = collection.documents[docid]
                writer.writerow([text, document.title, document.text])
    content = whole(collection)
    content = named_only(Content(content.documents, {"train": content.queries["train"]}, {}), judged=())
    return Replica(file, by_content(content), {"layout": "pairs", "held_out": 0.0}, ids=False)


def tevatron_v1(collection: Collection, place: Path) -> Replica | None:
    if not collection.is_text:
        return None

    def passages(docids: Iterable[str]) -> list[dict[str, str]]:
        found = [(docid, collection.documents[docid]) for docid in docids]
        return [{"docid": docid, "title": each.title, "text": each.text} for docid, each in found]

    for split, queries in collection.queries.items():
        drawn = collection.negatives(split)
        write_jsonl(place / f"{split}.jsonl", (
            {"query_id": query_id, "query": text,
             "positive_passages": passages(collection.positives(split, query_id)),
             "negative_passages": passages(drawn[query_id])}
            for query_id, text in queries.items()
        ))  # fmt: skip
    content = named_only(whole(collection, negatives=True), judged=("test",))
    return Replica(place, by_content(content), {"layout": "tevatron-v1"}, ids=False)


def tevatron_v2(collection: Collection, place: Path) -> Replica | None:
    rows = []
    for number, (docid, each) in enumerate(collection.documents.items()):
        row: dict[str, Any] = {"docid": docid, "title": each.title, "text": each.text or None}
        for kind, data in each.media.items():
            row[kind] = f"assets/{number}.{kind}"
            (place / "assets").mkdir(exist_ok=True)
            (place / row[kind]).write_bytes(data)
        rows.append(row)
    write_jsonl(place / "corpus.jsonl", rows)
    for split, queries in collection.queries.items():
        drawn = collection.negatives(split)
        write_jsonl(place / f"{split}.jsonl", (
            {"query_id": query_id, "query_text": text, "query_image": None,
             "positive_document_ids": collection.positives(split, query_id),
             "negative_document_ids": drawn[query_id]}
            for query_id, text in queries.items()
        ))  # fmt: skip
    content = whole(collection, negatives=True)
    judged = named_only(content, judged=("test",)).qrels
    return Replica(place, Content(content.documents, content.queries, judged), {"layout": "tevatron-v2"})


def sentence_transformers(collection: Collection, place: Path) -> Replica | None:
    if not collection.is_text:
        return None
    bare = joined(collection)
    drawn = bare.negatives("train")
    write_jsonl(place / "triplets.jsonl", (
        {"anchor": text, "positive": bare.documents[docid].text,
         **{f"negative_{at}": bare.documents[other].text for at, other in enumerate(drawn[query_id], 1)}}
        for query_id, text in bare.queries["train"].items()
        for docid in bare.positives("train", query_id)
    ))  # fmt: skip
    content = whole(bare, negatives=True)
    content = named_only(Content(content.documents, {"train": content.queries["train"]}, {}), judged=())
    options = {"layout": "sentence-transformers"}
    return Replica(place / "triplets.jsonl", by_content(content), options, ids=False)


def flagembedding(collection: Collection, place: Path) -> Replica | None:
    if not collection.is_text:
        return None
    bare = joined(collection)
    drawn, queries = bare.negatives("train"), list(bare.queries["train"].items())
    for part in range(2):  # as the authors' own data: a directory of files
        write_jsonl(place / f"part{part}.jsonl", (
            {"query": text, "pos": [bare.documents[docid].text for docid in bare.positives("train", query_id)],
             "neg": [bare.documents[docid].text for docid in drawn[query_id]], "type": "normal"}
            for query_id, text in queries[part::2]
        ))  # fmt: skip
    content = whole(bare, negatives=True)
    content = named_only(Content(content.documents, {"train": content.queries["train"]}, {}), judged=())
    return Replica(place, by_content(content), {"layout": "flagembedding"}, ids=False)


def plain(collection: Collection, place: Path) -> Replica | None:
    rows = []
    with tarfile.open(place / "media.tar", "w") as archive:
        for number, (docid, each) in enumerate(collection.documents.items()):
            row: dict[str, Any] = {"docid": docid, "title": each.title, "text": each.text or "a caption"}
            for kind, data in each.media.items():
                row[kind] = f"{kind}/{number}.{kind}"
                (place / "part").write_bytes(data)
                archive.add(place / "part", row[kind])
            rows.append(row)
    write_jsonl(place / "corpus.jsonl", rows)
    for split, queries in collection.queries.items():
        write_jsonl(place / f"queries.{split}.jsonl", ({"query_id": i, "text": text} for i, text in queries.items()))
        write_qrels(place / f"qrels.{split}.tsv", collection.qrels[split], "query_id\tdocid\tscore")
    return Replica(place, whole(collection), {"layout": "plain"})


def flat(collection: Collection) -> Collection:
    """The collection for files cut at tabs and line ends: neither stands in a text."""

    def clean(text: str) -> str:
        return re.sub(r"[\t\r\n\v\f\x1c-\x1e\x85\u2028\u2029]+", " ", text)

    documents = {docid: Doc(clean(each.title), clean(each.text)) for docid, each in collection.documents.items()}
    queries = {split: {i: clean(text) for i, text in texts.items()} for split, texts in collection.queries.items()}
    return Collection(collection.name, documents, queries, collection.qrels)


def hub(place: Path, configs: Mapping[str, Mapping[str, list[dict[str, Any]]]]) -> Path:
    """A repository as `datasets` pushes it: Parquet by config and split, declared in its README."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    declared = ["---", "configs:"]
    for config, splits in configs.items():
        declared += [f"- config_name: {config}", "  data_files:"]
        (place / config).mkdir(parents=True)
        for split, rows in splits.items():
            pq.write_table(pa.Table.from_pylist(rows), place / config / f"{split}-00000-of-00001.parquet")
            declared += [f"  - split: {split}", f"    path: {config}/{split}-*"]
    (place / "README.md").write_text("\n".join([*declared, "---", ""]), encoding="utf-8")
    return place


def stored(name: str, data: bytes) -> dict[str, Any]:
    """A picture or recording as Hugging Face stores it in a column."""
    return {"bytes": data, "path": name}


def judged_rows(collection: Collection) -> dict[str, list[dict[str, Any]]]:
    return {
        split: [
            {"query-id": query_id, "corpus-id": docid, "score": grade}
            for query_id, grades in judged.items()
            for docid, grade in grades.items()
        ]
        for split, judged in collection.qrels.items()
    }


def mteb(collection: Collection, place: Path) -> Replica | None:
    corpus = [
        {"id": docid, "title": each.title, "text": each.text or None,
         **{kind: stored(f"{docid}.{kind}", data) for kind, data in each.media.items()}}
        for docid, each in collection.documents.items()
    ]  # fmt: skip
    queries = {
        split: [{"id": query_id, "text": text} for query_id, text in texts.items()]
        for split, texts in collection.queries.items()
    }
    # Of two subsets one is converted.
    configs = {"eng-corpus": {"corpus": corpus}, "eng-queries": queries, "eng-qrels": judged_rows(collection)}
    configs |= {config.replace("eng", "fra"): splits for config, splits in configs.items()}
    return Replica(hub(place, configs), whole(collection), {"layout": "mteb", "part": "eng"})


def vidore(collection: Collection, place: Path) -> Replica | None:
    if not all(set(each.media) == {"image"} for each in collection.documents.values()):
        return None
    corpus = [
        {"corpus-id": docid, "image": stored(f"{docid}.png", each.media["image"])}
        for docid, each in collection.documents.items()
    ]
    queries = {
        split: [{"query-id": query_id, "query": text} for query_id, text in texts.items()]
        for split, texts in collection.queries.items()
    }
    configs = {"corpus": {"test": corpus}, "queries": queries, "qrels": judged_rows(collection)}
    return Replica(hub(place, configs), whole(collection), {"layout": "vidore"})


def miracl(collection: Collection, place: Path) -> Replica | None:
    if not collection.is_text:
        return None
    bare = flat(collection)
    rows = [{"docid": docid, "title": each.title, "text": each.text} for docid, each in bare.documents.items()]
    for shard in range(3):
        path = place / "miracl-corpus-v1.0-en" / f"docs-{shard}.jsonl.gz"
        path.parent.mkdir(exist_ok=True)
        text = "".join(json.dumps(row) + "\n" for row in rows[shard::3])
        path.write_bytes(gzip.compress(text.encode(), compresslevel=1))
    content = whole(bare)
    for split, texts in bare.queries.items():
        _lines_to(place / f"miracl-v1.0-en/topics/topics.miracl-v1.0-en-{split}.tsv", texts.items())
        judged = [(i, "Q0", docid, grade) for i, grades in bare.qrels[split].items() for docid, grade in grades.items()]
        _lines_to(place / f"miracl-v1.0-en/qrels/qrels.miracl-v1.0-en-{split}.tsv", judged)
        # What was judged and is no answer is a negative.
        content.queries[split] = {
            query_id: (text, good, frozenset(bare.qrels[split][query_id]) - good)
            for query_id, (text, good, _) in content.queries[split].items()
        }
    return Replica(place, content, {"layout": "miracl"})


def msmarco(collection: Collection, place: Path) -> Replica | None:
    if not collection.is_text:
        return None
    bare = flat(joined(collection))
    _lines_to(place / "collection.tsv", ((docid, each.text) for docid, each in bare.documents.items()))
    content = whole(bare, negatives=True)
    for split, texts in bare.queries.items():
        _lines_to(place / f"queries.{split}.tsv", texts.items())
        judged = [(i, 0, docid, grade) for i, grades in bare.qrels[split].items() for docid, grade in grades.items()]
        _lines_to(place / f"qrels.{split}.tsv", judged)
    triples = [
        (query_id, docid, other)
        for query_id, (_, good, bad) in content.queries["train"].items()
        for docid in good
        for other in bad
    ]
    random.Random(0).shuffle(triples)
    _lines_to(place / "qidpidtriples.train.full.tsv", triples)
    content.queries["test"] = whole(bare).queries["test"]
    return Replica(place, content, {"layout": "msmarco"})


def captions(collection: Collection, place: Path) -> Replica | None:
    kinds = {kind for each in collection.documents.values() for kind in each.media}
    named = [len(grades) for judged in collection.qrels.values() for grades in judged.values()]
    if kinds not in ({"video"}, {"audio"}) or set(named) != {1}:  # a caption tells of one clip
        return None
    (kind,) = kinds
    with tarfile.open(place / "clips.tar", "w") as archive:
        for docid, each in collection.documents.items():
            (place / "part").write_bytes(each.media[kind])
            archive.add(place / "part", f"all/{docid}.{'mp4' if kind == 'video' else 'opus'}")
    (place / "part").unlink()
    for split, texts in collection.queries.items():
        rows = [(query_id, collection.positives(split, query_id)[0], text) for query_id, text in texts.items()]
        if kind == "video":  # as MSR-VTT
            videos = [{"video_id": docid, "split": split} for _, docid, _ in rows]
            sentences = [{"sen_id": i, "video_id": docid, "caption": text} for i, docid, text in rows]
            text = json.dumps({"info": {}, "videos": videos, "sentences": sentences})
            (place / f"{split}_videodatainfo.json").write_text(text, encoding="utf-8")
        else:  # as AudioCaps
            with (place / f"{split}.csv").open("w", encoding="utf-8", newline="") as file:
                csv.writer(file).writerows([("audiocap_id", "youtube_id", "caption"), *rows])
    content = whole(collection)
    return Replica(place, named_only(content, judged=tuple(content.queries)), {"layout": "captions"})


def _lines_to(path: Path, rows: Iterable[Iterable[object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join("\t".join(map(str, row)) + "\n" for row in rows), encoding="utf-8", newline="")


REPLICAS: dict[str, Callable[[Collection, Path], Replica | None]] = {
    "beir": beir,
    "pairs": pairs,
    "tevatron-v1": tevatron_v1,
    "tevatron-v2": tevatron_v2,
    "sentence-transformers": sentence_transformers,
    "flagembedding": flagembedding,
    "plain": plain,
    "mteb": mteb,
    "vidore": vidore,
    "miracl": miracl,
    "msmarco": msmarco,
    "captions": captions,
}
"""Writes a collection into an empty directory, in a layout; None where the layout cannot express the collection."""
