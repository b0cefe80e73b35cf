"""Every layout: what was put in comes out, compared by plain Python; what contradicts itself is refused with places."""

from __future__ import annotations

import io
import json
import logging
import random
import subprocess
import sys
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from teva_data.conversion import LAYOUTS, Options, convert, recognise, write_dataset
from teva_data.conversion.tables import open_tables
from teva_data.conversion.tables_hub import HubTables
from teva_data.dataset import Dataset
from teva_data.errors import DataError

from .replicas import hub_repository

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(200))


def jsonl(path: Path, rows) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def texts_of(dataset: Dataset) -> dict[str, tuple[str, str]]:
    return {d.docid: (d.title, d.document_text) for d in dataset.corpus.documents(0, len(dataset.corpus))}


def refused(told: str):
    return pytest.raises(DataError, match="(?s)" + told)


# --- Tevatron v1 ---


def v1_rows(queries: int, passages: int, seed: int = 0) -> list[dict]:
    """Queries with passages of a pool in which 1 in 7 texts has two ids, drawn at random."""
    draw = random.Random(seed)
    pool = [
        {
            "docid": f"p{n}",
            "title": f"title {n % 5}" if n % 3 else "",
            "text": f"passage {n - (n % 7 == 6)} é漢\n{n % 5}",
        }
        for n in range(200)
    ]
    for n in range(6, 200, 7):  # the same title and text as the one before
        pool[n] = {**pool[n - 1], "docid": f"p{n}"}
    rows = []
    for n in range(queries):
        drawn = draw.sample(pool, passages)
        rows.append({"query_id": f"q{n}", "query": f"question {n} ü", "positive_passages": drawn[:2],
                     "negative_passages": drawn[2:]})  # fmt: skip
    return rows


def v1_expected(rows) -> tuple[dict, list]:
    """What v1 rows come to, in the plainest Python: documents and queries."""
    first_id: dict[tuple[str, str], str] = {}
    queries = []
    for row in rows:
        lists = []
        for field in ("positive_passages", "negative_passages"):
            ids = []
            for passage in row[field]:
                docid = first_id.setdefault((passage["title"], passage["text"]), passage["docid"])
                if docid not in ids:
                    ids.append(docid)
            lists.append(ids)
        negatives = [docid for docid in lists[1] if docid not in lists[0]]
        queries.append((row["query_id"], row["query"], tuple(lists[0]), tuple(negatives)))
    return {docid: content for content, docid in first_id.items()}, queries


def queries_of(dataset: Dataset, split: str) -> list:
    return [
        (q.query_id, q.query_text, q.positive_document_ids, q.negative_document_ids) for q in dataset.queries(split)
    ]


@pytest.mark.parametrize("form", ["jsonl", "jsonl.zst", "parquet"])
@pytest.mark.parametrize("source", ["jsonl", "parquet", "parquet of lists"])
def test_v1(tmp_path, form, source, caplog):
    caplog.set_level(logging.INFO)
    rows = v1_rows(300, 12)
    if source == "jsonl":
        place = jsonl(tmp_path / "nq.jsonl", rows)
    else:
        table = [dict(row) for row in rows]
        if source == "parquet of lists":  # how `datasets` stored lists of objects before version 4
            for row in table:
                for field in ("positive_passages", "negative_passages"):
                    row[field] = {name: [each[name] for each in row[field]] for name in ("docid", "title", "text")}
        place = tmp_path / "nq.parquet"
        pq.write_table(pa.Table.from_pylist(table), place, row_group_size=50)
    dataset = Dataset.open(convert(place, tmp_path / "out", form=form))
    documents, queries = v1_expected(rows)
    assert texts_of(dataset) == documents
    assert queries_of(dataset, "train") == queries
    dataset.check_references("train")
    assert "read in the layout 'tevatron-v1'" in caplog.text
    assert f"3600 passages are {len(documents)} documents" in caplog.text


def test_what_left_the_cache_is_found_on_disk(tmp_path, monkeypatch):
    monkeypatch.setattr("teva_data.conversion.seen.CACHE_ENTRIES", 5)
    rows = v1_rows(100, 12, seed=1)
    dataset = Dataset.open(convert(jsonl(tmp_path / "x.jsonl", rows), tmp_path / "out"))
    documents, queries = v1_expected(rows)
    assert texts_of(dataset) == documents
    assert queries_of(dataset, "train") == queries


def test_two_texts_under_one_id_in_two_files(tmp_path):
    for name, text in (("dev", "one"), ("train", "other")):
        row = {"query_id": "q", "query": "a", "positive_passages": [passage(7, text)]}
        jsonl(tmp_path / "in" / f"{name}.jsonl", [row])
    with refused(r"train.jsonl:1: .*two different texts under the id '7', the first at .*dev.jsonl:1; found 'other'"):
        convert(tmp_path / "in", tmp_path / "out")


def passage(docid, text, **more) -> dict:
    return {"docid": docid, "title": "", "text": text, **more}


def test_v1_merges_and_counts(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    jsonl(tmp_path / "dev.jsonl", [
        {"query_id": "q1", "query": "a",
         "positive_passages": [passage("p1", "one", score=3), passage("p2", "two", score=1.5)],
         "negative_passages": [passage("p3", "one"), passage("p4", "four"), passage("p4", "four")]},
        {"query_id": "q2", "query": "b", "positive_passages": [{"docid": 5, "text": "five", "title": None}],
         "negative_passages": None},
    ])  # fmt: skip
    dataset = Dataset.open(convert(tmp_path / "dev.jsonl", tmp_path / "out"))
    assert dataset.splits == ["dev"]
    first, second = dataset.queries("dev")
    assert (first.positive_document_ids, first.negative_document_ids) == (("p1", "p2"), ("p4",))
    assert (first.positive_scores, first.negative_scores) == ((3.0, 1.5), None)
    assert second.positive_document_ids == ("5",)
    assert dataset.qrels("dev") == {"q1": {"p1": 1, "p2": 1}, "q2": {"5": 1}}
    assert "6 passages are 4 documents; 1 ids were given up for another id of the same content" in caplog.text
    assert "1 that stood twice in one list, 1 negatives that are positives" in caplog.text


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"positive_passages": [passage("p1", "other")]},
         r"train.jsonl:3: field 'positive_passages\[0\]': two different texts under the id 'p1', the first at "
         r".*train.jsonl:1"),
        ({"positive_passages": [passage("p1", "one", title="T")]}, r"train.jsonl:3: .*two different texts"),
        ({"positive_passages": [passage("p9", "")]}, r"train.jsonl:3: field 'positive_passages\[0\]': empty passage"),
        ({"positive_passages": [{"docid": "p9"}]}, r"train.jsonl:3: field 'positive_passages\[0\].text': not a text"),
        ({"positive_passages": ["p1"]}, r"train.jsonl:3: field 'positive_passages\[0\]': not a passage"),
        ({"positive_passages": "p1"}, r"train.jsonl:3: field 'positive_passages': not a list"),
        ({"negative_passages": [passage("p1", "one"), passage("p8", "half \ud800")], "positive_passages": []},
         r"train.jsonl:3: field 'negative_passages': not Unicode"),
        ({"positive_passages": [passage("p1", "one", score="high")]}, r"train.jsonl:3: field .*score': not a score"),
        ({"query": " "}, r"train.jsonl:3: field 'query': no text"),
        ({"query_id": "q1"}, r"train.jsonl:3: field 'query_id': duplicate id, first on line 1"),
        ({"query_id": None}, r"train.jsonl:3: field 'query_id': no value"),
    ],
)  # fmt: skip
def test_v1_that_contradicts_itself(tmp_path, row, told):
    good = [{"query_id": f"q{n}", "query": "a", "positive_passages": [passage("p1", "one")]} for n in (1, 2)]
    bad = {"query_id": "q3", "query": "a", "positive_passages": [], **row}
    with (tmp_path / "train.jsonl").open("w") as file:
        file.writelines(json.dumps(each) + "\n" for each in [*good, bad])
    with refused(told):
        convert(tmp_path / "train.jsonl", tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["train.jsonl"]


PEAK = """
import resource, sys
from teva_data.conversion import convert
import pyarrow, datasets
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
convert(sys.argv[1], sys.argv[2])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_memory_does_not_grow_with_the_source(tmp_path):
    def peak(queries: int) -> int:
        """Growth of a new process's memory while it converts, in KiB."""
        place = tmp_path / f"{queries}.jsonl"
        with place.open("w") as file:
            for n in range(queries):  # every passage is new
                passages = [passage(f"p{n}-{at}", f"passage {at} of {n} " + "word " * 40) for at in range(20)]
                row = {"query_id": f"q{n}", "query": f"question {n}", "positive_passages": passages[:1],
                       "negative_passages": passages[1:]}  # fmt: skip
                file.write(json.dumps(row) + "\n")
        words = [sys.executable, "-c", PEAK, str(place), str(tmp_path / f"out-{queries}")]
        return int(subprocess.run(words, capture_output=True, check=True, text=True).stdout)

    small, large = peak(5_000), peak(20_000)
    assert sum(1 for _ in (tmp_path / "out-20000/corpus.jsonl").open()) == 400_000
    # 120 MB of rows. The caches of ids fill to their bounds, 100,000 entries and 64 MiB, and nothing else grows.
    assert large < 170 * 1024
    assert large < small + 80 * 1024


def test_killed_conversion_leaves_nothing_that_looks_like_a_dataset(tmp_path):
    jsonl(tmp_path / "in" / "train.jsonl", v1_rows(20_000, 20))
    out = tmp_path / "place" / "out"
    # The signal comes from within, at the moment when the dataset's file is opened, however busy the machine is.
    code = f"""
import os, signal, sys
from teva_data.cli import main

def interrupt(event, arguments):
    path = str(arguments[0]) if event == "open" else ""
    if path.startswith({str(out.parent / ".out.")!r}) and path.endswith("corpus.jsonl"):
        os.kill(os.getpid(), signal.SIGINT)

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it, and so their children
sys.addaudithook(interrupt)
sys.exit(main(["convert", {str(tmp_path / "in" / "train.jsonl")!r}, {str(out)!r}]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 130, done.stderr
    assert list(out.parent.iterdir()) == []


# --- Tevatron v2, and teva's own ---


@pytest.fixture
def v2(tmp_path) -> Path:
    place = tmp_path / "v2"
    jsonl(place / "corpus.jsonl", [
        {"docid": "d1", "document_text": "one", "image": "img/a.png"}, {"docid": 2, "text": "two é", "title": "T"},
        {"docid": "d3", "image": None, "audio": "a.wav", "text": None},
    ])  # fmt: skip
    jsonl(place / "train.jsonl", [
        {"query_id": "q1", "query_text": "who?", "query_image": None, "positive_document_ids": ["d1", "d1"],
         "negative_document_ids": [2, "d3", "d1"]},
        {"query_id": "q2", "query_text": None, "query_image": "img/a.png", "positive_document_ids": ["d3"],
         "negative_document_ids": [], "positive_scores": [0.5], "prompt": "p: "},
    ])  # fmt: skip
    (place / "img").mkdir()
    (place / "img/a.png").write_bytes(PNG)
    with tarfile.open(place / "audio.tar", "w") as archive:
        member = tarfile.TarInfo("a.wav")
        member.size = len(PNG)
        archive.addfile(member, io.BytesIO(PNG))
    return place


def v2_content(dataset: Dataset) -> object:
    documents = dataset.corpus.documents(0, len(dataset.corpus))
    return (
        [(d.docid, d.title, d.document_text, [(m.kind, m.read()) for m in d.media]) for d in documents],
        {
            split: [
                (q.query_id, q.query_text, [(m.kind, m.read()) for m in q.media], q.positive_document_ids,
                 q.negative_document_ids, q.positive_scores, q.prompt)
                for q in dataset.queries(split)
            ]
            for split in dataset.splits
        },
    )  # fmt: skip


V2 = (
    [("d1", "", "one", [("image", PNG)]), ("2", "T", "two é", []), ("d3", "", "", [("audio", PNG)])],
    {
        "train": [
            ("q1", "who?", [], ("d1",), ("2", "d3"), None, None),
            ("q2", "", [("image", PNG)], ("d3",), (), (0.5,), "p: "),
        ]
    },
)


@pytest.mark.parametrize("form", ["jsonl", "jsonl.zst", "parquet"])
@pytest.mark.parametrize("media", ["files", "bytes", "link"])
def test_v2(v2, tmp_path, form, media):
    first = convert(v2, tmp_path / "first", form=form, media=media)
    assert v2_content(Dataset.open(first)) == V2
    again = convert(first, tmp_path / "again", layout="tevatron-v2", form="parquet", media="bytes")  # teva's own form
    assert v2_content(Dataset.open(again)) == V2


def test_v2_with_the_corpus_elsewhere(v2, tmp_path):
    (v2 / "corpus.jsonl").rename(v2 / "docs.jsonl")
    with refused("no corpus.*--corpus"):
        convert(v2 / "train.jsonl", tmp_path / "out")
    out = convert(v2 / "train.jsonl", tmp_path / "out", corpus=v2 / "docs.jsonl", modalities=("image", "audio", "text"))
    assert v2_content(Dataset.open(out)) == V2
    # The second document would be empty without its text.
    with refused(r"docs.jsonl:2: empty document; found '2'"):
        convert(v2 / "train.jsonl", tmp_path / "less", corpus=v2 / "docs.jsonl", modalities=("image",))


@pytest.mark.parametrize(
    ("file", "row", "told"),
    [
        ("train.jsonl", {"query_id": "q3", "query_text": "x", "positive_document_ids": ["d1", "d9"]},
         r"train.jsonl:3: field 'positive_document_ids\[1\]': unknown document; found 'd9'"),
        ("train.jsonl", {"query_id": "q3", "positive_document_ids": ["d1"]}, r"train.jsonl:3: field 'query_text'"),
        ("train.jsonl", {"query_id": "q3", "query_text": "x", "positive_document_ids": ["d1"], "positive_scores": []},
         r"train.jsonl:3: field 'positive_scores': not one score for each"),
        ("corpus.jsonl", {"docid": "d1", "text": "x"}, r"corpus.jsonl:4: field 'docid': duplicate id, first on line 1"),
        ("corpus.jsonl", {"docid": "d4", "image": "../train.jsonl"}, r"corpus.jsonl:4: field 'image': the path leaves"),
        ("corpus.jsonl", {"docid": "d4", "image": "img/b.png"}, r"corpus.jsonl:4: field 'image': no such file"),
    ],
)  # fmt: skip
def test_v2_that_contradicts_itself(v2, tmp_path, file, row, told):
    with (v2 / file).open("a") as lines:
        lines.write(json.dumps(row) + "\n")
    with refused(told):
        convert(v2, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_graded_judgements_of_tevas_own_form_are_kept(tmp_path):
    jsonl(tmp_path / "in/corpus.jsonl", [{"docid": "d1", "text": "a"}, {"docid": "d2", "text": "b"}])
    jsonl(tmp_path / "in/dev.jsonl", [{"query_id": "q", "query_text": "x", "positive_document_ids": ["d1"]}])
    (tmp_path / "in/qrels").mkdir()
    (tmp_path / "in/qrels/dev.tsv").write_text("query_id\tdocid\tscore\nq\td2\t0\nq\td1\t3\n")
    out = Dataset.open(convert(tmp_path / "in", tmp_path / "out"))
    assert out.qrels("dev") == {"q": {"d2": 0, "d1": 3}}
    (tmp_path / "in/qrels/dev.tsv").write_text("query_id\tdocid\tscore\nq\td1\t0\nq\td1\t3\n")
    with refused(r"dev.tsv:3: field 'docid': document twice for query 'q'"):
        convert(tmp_path / "in", tmp_path / "other")


def test_tevas_own_form_keeps_all_that_it_has(tmp_path, caplog):
    source = tmp_path / "in"
    jsonl(source / "corpus.jsonl", [{"docid": "d1", "document_text": ["a", "b"]}, {"docid": "d2", "text": "c"}])
    jsonl(source / "dev.jsonl", [{"query_id": "q", "query_text": ["x", "y"], "positive_document_ids": ["d1"]}])
    for name, content in {
        "qrels/dev.tsv": "query_id\tdocid\tscore\nq\td1\t3\n",
        "qrels/alone.tsv": "query_id\tdocid\tscore\nz\td1\t3\n",
        "top_ranked/dev.tsv": "q\td2\t1.0\n",
        "dataset.yaml": "name: mine\nlicense: mit\nlanguages: [en]\nprompts: {query: 'find: '}\n",
    }.items():
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).write_text(content)
    with caplog.at_level(logging.WARNING):
        out = Dataset.open(convert(source, tmp_path / "out", form="parquet"))
    assert out.card == Dataset.open(source).card
    assert [document.pieces for document in out.corpus] == [("a", "b"), ()]
    assert [query.pieces for query in out.queries("dev")] == [("x", "y")]
    assert out.splits == ["dev"]
    assert (out.path / "top_ranked/dev.tsv").read_text() == "q\td2\t1.0\n"
    assert "judgements without queries are left out: alone" in caplog.text


@pytest.mark.parametrize("text", [["a", " "], ["a", 1], [None]])
def test_bad_texts_of_a_list_are_named(tmp_path, text):
    jsonl(tmp_path / "in/corpus.jsonl", [{"docid": "d1", "text": text}])
    jsonl(tmp_path / "in/train.jsonl", [{"query_id": "q", "query_text": "x", "positive_document_ids": ["d1"]}])
    with refused(r"corpus.jsonl:1: (field 'text\[1\]': no|empty document)"):
        convert(tmp_path / "in", tmp_path / "out")


def test_a_source_without_a_document_is_named(tmp_path):
    jsonl(tmp_path / "train.jsonl", [{"query_id": "q", "query": "x", "positive_passages": [], "negative_passages": []}])
    with refused(r"train.jsonl: no documents"):
        convert(tmp_path / "train.jsonl", tmp_path / "out")


# --- plain ---


@pytest.fixture
def plain(tmp_path) -> Path:
    place = tmp_path / "plain"
    jsonl(
        place / "corpus.image.jsonl",
        [{"docid": f"i{n}", "text": f"caption {n}", "image": f"img/{n}.png"} for n in range(3)],
    )
    jsonl(
        place / "corpus.speech.jsonl",
        [{"docid": f"s{n}", "text": f"said {n}", "audio": f"say/{n}.ogg"} for n in range(2)],
    )
    for part in ("image", "speech"):
        jsonl(place / f"queries.{part}.test.jsonl", [{"query_id": f"q{n}", "text": f"caption {n}"} for n in range(2)])
        (place / f"qrels.{part}.test.tsv").write_text(f"query_id\tdocid\tscore\nq0\t{part[0]}1\t2\nq1\t{part[0]}0\t1\n")
    (place / "qrels.speech2image.train.tsv").write_text("query_id\tdocid\tscore\ns0\ti2\t1\n")
    with tarfile.open(place / "media.tar", "w") as archive:
        for name in [*(f"img/{n}.png" for n in range(3)), *(f"say/{n}.ogg" for n in range(2))]:
            member = tarfile.TarInfo(name)
            member.size = len(name)
            archive.addfile(member, io.BytesIO(name.encode()))
    return place  # fmt: skip


def test_plain_collections_of_one_source(plain, tmp_path):
    with refused(r"several collections; found \['image', 'speech', 'speech2image'\]. Name one with part"):
        convert(plain, tmp_path / "out")
    with refused("no such part.*found 'video'"):
        convert(plain, tmp_path / "out", part="video")
    images = Dataset.open(convert(plain, tmp_path / "images", part="image"))
    assert v2_content(images) == (
        [(f"i{n}", "", "", [("image", b"img/%d.png" % n)]) for n in range(3)],
        {"test": [("q0", "caption 0", [], ("i1",), (), None, None), ("q1", "caption 1", [], ("i0",), (), None, None)]},
    )
    assert images.qrels("test") == {"q0": {"i1": 2}, "q1": {"i0": 1}}
    across = Dataset.open(convert(plain, tmp_path / "across", part="speech2image", media="bytes"))
    assert v2_content(across)[1] == {"train": [("s0", "", [("audio", b"say/0.ogg")], ("i2",), (), None, None)]}
    both = Dataset.open(convert(plain, tmp_path / "both", part="image", modalities=("image", "text")))
    assert v2_content(both)[0][0] == ("i0", "", "caption 0", [("image", b"img/0.png")])
    layer = Dataset.open(convert(plain, tmp_path / "layer", part="image", modalities=("text",)))
    assert v2_content(layer)[0][0] == ("i0", "", "caption 0", [])


# --- what is guessed ---


def test_every_layout_has_what_the_registry_asks_for():
    from importlib import import_module

    for name, module in LAYOUTS.items():
        found = import_module(f"teva_data.conversion.layouts.{module}")
        assert callable(found.recognise), name
        assert callable(found.convert), name


def test_only_the_layout_that_fits_is_recognised(tmp_path, v2, plain):

    jsonl(tmp_path / "v1.jsonl", v1_rows(2, 3))
    jsonl(tmp_path / "bge.jsonl", [{"query": "a", "pos": ["b"], "neg": ["c"]}])
    jsonl(tmp_path / "st.jsonl", [{"anchor": "a", "positive": "b", "negative": "c"}])
    jsonl(tmp_path / "pairs.jsonl", [{"query": "a", "positive": "b"}])
    expected = {
        tmp_path / "v1.jsonl": "tevatron-v1", tmp_path / "bge.jsonl": "flagembedding", v2: "tevatron-v2",
        tmp_path / "st.jsonl": "sentence-transformers", tmp_path / "pairs.jsonl": "pairs", plain: "plain",
        v2 / "train.jsonl": "tevatron-v2",
    }  # fmt: skip
    assert {place: recognise(open_tables(place))[0] for place in expected} == expected
    both = jsonl(tmp_path / "both.jsonl", [{"query": "a", "pos": ["b"], "positive_passages": []}])
    with refused("several layouts fit.*tevatron-v1: .*flagembedding: .*--from"):
        recognise(open_tables(both))
    with refused("field 'layout': unknown; found 'beer'"):
        convert(both, tmp_path / "out", layout="beer")


def test_same_source_through_files_and_through_datasets(tmp_path):
    """The code that reads the hub gives the same dataset as the code that reads files."""
    from teva_data.conversion import _layout
    from teva_data.writing import DatasetWriter

    rows = v1_rows(50, 8)
    (tmp_path / "set" / "data").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "set/data/train-00000-of-00001.parquet")
    (tmp_path / "hub").mkdir()
    with DatasetWriter(tmp_path / "hub") as writer:
        _layout("tevatron-v1").convert(HubTables(str(tmp_path / "set")), writer, Options())
    here = convert(tmp_path / "set", tmp_path / "here")
    for name in ("corpus.jsonl", "train.jsonl"):
        assert (tmp_path / "hub" / name).read_bytes() == (here / name).read_bytes()
    assert texts_of(Dataset.open(here)) == v1_expected(rows)[0]


def test_recognising_a_layout_tells_of_no_reading(v2, tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        convert(v2, tmp_path / "out")
    told = [record.getMessage() for record in caplog.records]
    assert "read in the layout 'tevatron-v2'" in told[0]


# --- BEIR as it lies on the hub ---


def test_beir_of_the_hub_with_its_judgements_in_a_second_repository(tmp_path):
    """``BeIR/scifact`` has the configs corpus and queries; ``BeIR/scifact-qrels`` has a TSV for each split."""
    columns = {"_id": "string", "title": "string", "text": "string"}
    source = hub_repository(
        tmp_path / "scifact",
        {
            "corpus": {"corpus": [{"_id": f"{n}", "title": "", "text": f"text {n}"} for n in range(4)]},
            "queries": {"queries": [{"_id": f"{n}", "title": "", "text": f"claim {n}"} for n in range(3)]},
        },
        {"corpus": columns, "queries": columns},
    )
    for tables in (open_tables(source), HubTables(str(source))):
        with refused("scifact-qrels"):
            write_dataset(tables, tmp_path / "none", "beir", Options())
    apart = tmp_path / "scifact-qrels"
    apart.mkdir()
    (apart / "README.md").write_text("---\nlanguage: [en]\n---\n")
    (apart / "train.tsv").write_text("query-id\tcorpus-id\tscore\n0\t1\t1\n0\t2\t2\n")
    (apart / "test.tsv").write_text("query-id\tcorpus-id\tscore\n2\t3\t1\n")
    for number, tables in enumerate((open_tables(source), HubTables(str(source)))):
        assert recognise(tables)[0] == "beir"
        write_dataset(tables, tmp_path / f"out{number}", "beir", Options())
        out = Dataset.open(tmp_path / f"out{number}")
        assert {split: out.qrels(split) for split in out.splits} == {
            "train": {"0": {"1": 1, "2": 2}}, "test": {"2": {"3": 1}},
        }  # fmt: skip
        assert [query.query_text for query in out.queries("train")] == ["claim 0"]
    third = {"default": {"test": [{"query-id": "2", "corpus-id": "3", "score": 1.0}]}}
    configs = {name: {name: [{"_id": "2", "title": "", "text": "t"}, {"_id": "3", "title": "", "text": "u"}]}
               for name in ("corpus", "queries")}  # fmt: skip
    judged = {"query-id": "string", "corpus-id": "string", "score": "float64"}
    features = {"corpus": columns, "queries": columns, "default": judged}
    mteb = hub_repository(tmp_path / "mteb", {**configs, **third}, features)
    assert recognise(open_tables(mteb))[0] == "mteb"
