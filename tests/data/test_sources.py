"""A corpus or split in one file or several, JSONL or Parquet: the same rows, addresses and errors."""

from __future__ import annotations

import gzip
import json
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from teva_data import reader
from teva_data.dataset import Dataset
from teva_data.errors import DataError
from teva_data.reader import read_parquet, read_rows
from teva_data.store import CorpusStore

ROWS = [{"docid": f"d{n}", "title": "t" if n % 3 else None, "text": f"text {n} ä"} for n in range(700)]


def lines(rows) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def parquet(path, rows) -> None:
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=100)


def _layouts(root):
    (root / "one").mkdir()
    (root / "one" / "corpus.jsonl").write_bytes(lines(ROWS))
    parquet(root / "two" / "corpus.parquet", ROWS)
    corpus = root / "three" / "corpus"
    corpus.mkdir(parents=True)
    parquet(corpus / "part-1.parquet", ROWS[300:])
    (corpus / "part-0.jsonl.gz").write_bytes(gzip.compress(lines(ROWS[:300])))
    (corpus / ".hidden.jsonl").write_text("{")
    return [root / name for name in ("one", "two", "three")]


def test_one_file_or_several_jsonl_or_parquet(tmp_path):
    stores = [Dataset.open(path).corpus for path in _layouts(tmp_path)]
    expected = list(stores[0])
    assert len(expected) == 700
    for store in stores:
        assert list(store) == expected
        assert store.rows(["d0", "d650", "d9999"]).tolist() == [0, 650, -1]
    assert [os.path.basename(store.address(650)[0]) for store in stores] == [  # noqa: PTH119
        "corpus.jsonl", "corpus.parquet", "part-1.parquet",
    ]  # fmt: skip
    assert [store.address(650)[1] for store in stores] == [651, 651, 351]
    assert stores[2].address(299) == (str(tmp_path / "three" / "corpus" / "part-0.jsonl.gz"), 300)


def test_a_changed_or_added_part_makes_a_new_store(tmp_path):
    path = _layouts(tmp_path)[2]
    before = Dataset.open(path).corpus
    assert Dataset.open(path).corpus.fingerprint == before.fingerprint
    parquet(path / "corpus" / "part-2.parquet", [{"docid": "new", "title": "", "text": "x"}])
    after = Dataset.open(path).corpus
    assert (len(after), len(before)) == (701, 700)
    assert after.fingerprint != before.fingerprint


def test_duplicate_over_two_files_names_both(tmp_path):
    path = _layouts(tmp_path)[2] / "corpus"
    parquet(path / "part-2.parquet", [{"docid": "d7", "title": "", "text": "x"}])
    with pytest.raises(DataError) as caught:
        CorpusStore.open(path)
    for part in (f"{path}/part-2.parquet:1: field 'docid': duplicate id, first in {path}/part-0.jsonl.gz:8",):
        assert part in str(caught.value)


def test_bad_row_of_parquet_has_its_number(tmp_path):
    parquet(tmp_path / "corpus.parquet", [*ROWS[:400], {"docid": None, "title": None, "text": "x"}])
    with pytest.raises(DataError, match=r"corpus\.parquet:401: field 'docid': no value"):
        CorpusStore.open(tmp_path / "corpus.parquet")


@pytest.mark.parametrize("damage", [lambda data: data[:-100], lambda data: b"", lambda data: data[:2000] + b"x" * 500])
def test_damaged_parquet_is_told(tmp_path, damage):
    path = tmp_path / "corpus.parquet"
    parquet(path, ROWS)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=r"corpus\.parquet: cannot be read as Parquet after row \d+"):
        list(read_parquet(path))


def test_parquet_without_rows_is_told(tmp_path):
    pq.write_table(pa.table({"docid": pa.array([], pa.string())}), tmp_path / "corpus.parquet")
    with pytest.raises(DataError, match=r"corpus\.parquet: no rows"):
        list(read_parquet(tmp_path / "corpus.parquet"))


def test_two_sources_of_one_name_are_refused(tmp_path):
    (tmp_path / "corpus.jsonl").write_bytes(lines(ROWS[:1]))
    parquet(tmp_path / "corpus.parquet", ROWS[:1])
    with pytest.raises(DataError, match="two files for 'corpus'"):
        Dataset.open(tmp_path)


def test_directory_without_data_is_no_split(tmp_path):
    (tmp_path / "corpus.jsonl").write_bytes(lines(ROWS[:1]))
    (tmp_path / "media").mkdir()
    (tmp_path / "media" / "a.png").write_bytes(b"x")
    (tmp_path / "train").mkdir()
    parquet(tmp_path / "train" / "0.parquet", [{"query_id": "q", "query_text": "x", "positive_document_ids": ["d0"]}])
    dataset = Dataset.open(tmp_path)
    assert dataset.splits == ["train"]
    dataset.check_references("train")


def test_problems_are_collected_and_reading_goes_on(tmp_path):
    path = tmp_path / "x.jsonl"
    good = [b'{"a": 1}', b'{"a": 2}', b'{"a": 3}']
    bad = [b"{", b"[1]", b"\xff\xfe", b'{"a": 1, "a": 2}', b"", b'{"a": "\\ud800"}']
    path.write_bytes(b"\n".join([good[0], *bad, good[1], b"nonsense", good[2], b""]))
    problems: list[DataError] = []
    rows = list(read_rows(path, problems=problems))
    assert [(row.record["a"], row.line) for row in rows] == [(1, 1), (2, 8), (3, 10)]
    assert sorted((problem.line or 0) for problem in problems) == [2, 3, 4, 5, 6, 7, 9]
    problems.clear()
    (tmp_path / "none.jsonl").write_bytes(b"\n\n")
    assert list(read_rows(tmp_path / "none.jsonl", problems=problems)) == []
    assert [problem.problem for problem in problems] == ["no rows"]
    cut = tmp_path / "cut.jsonl.gz"
    cut.write_bytes(gzip.compress(os.urandom(5000))[:-20])
    problems.clear()
    assert list(read_rows(cut, problems=problems)) == []
    assert any("cannot be read after line" in problem.problem for problem in problems)


def test_a_line_without_end_does_not_fill_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(reader, "LINE_LIMIT", 3 << 20)
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"a": 1}\n' + b"x" * (8 << 20))
    with pytest.raises(DataError, match=r"x\.jsonl:2: a line of more than 3 MiB"):
        list(read_rows(path))
