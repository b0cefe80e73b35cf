"""Every way in which a JSONL file may be odd: read rightly, or refused with its line."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from teva_data.conversion.table_files import read_table
from teva_data.errors import DataError
from teva_data.files import checksum
from teva_data.reader import Tap, read_lines, read_parquet, read_rows

RECORD = '{"docid": "a", "text": "é"}'


def rows_of(path: Path) -> list[tuple[int, dict]]:
    return [(row.line, dict(row.record)) for row in read_rows(path)]


def compress(data: bytes, path: Path) -> None:
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(data))
    elif path.suffix == ".zst":
        with pa.CompressedOutputStream(str(path), "zstd") as file:
            file.write(data)
    else:
        path.write_bytes(data)


@pytest.mark.parametrize("name", ["x.jsonl", "x.jsonl.gz", "x.jsonl.zst"])
def test_compressions_hold_the_same_rows(tmp_path, name):
    # More than one chunk of the reader, with lines across its borders.
    records = [{"docid": str(n), "text": f"é{n} " * (n % 400)} for n in range(4000)]
    data = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records).encode()
    assert len(data) > 2 << 20
    path = tmp_path / name
    compress(data, path)
    tap = Tap()
    assert [(row.line, row.record) for row in read_rows(path, tap)] == list(enumerate(records, start=1))
    assert (tap.bytes, tap.checksum) == (path.stat().st_size, checksum(path))


@pytest.mark.parametrize(
    "data",
    [
        RECORD + "\n",
        RECORD,  # no newline at the end
        "\ufeff" + RECORD + "\n",  # byte order mark
        RECORD + "\r\n",
        RECORD + "\n\n  \n",  # empty lines at the end
        "  " + RECORD + "  \n",
    ],
)
def test_harmless_oddities_are_read(tmp_path, data):
    path = tmp_path / "x.jsonl"
    path.write_bytes(data.encode())
    assert rows_of(path) == [(1, {"docid": "a", "text": "é"})]


def test_line_separators_of_unicode_do_not_end_a_line(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"text": "one\u2028two\u0085three\x0bfour"}\n'.replace("\x0b", "\\u000b"), encoding="utf-8")
    assert rows_of(path) == [(1, {"text": "one\u2028two\u0085three\x0bfour"})]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (b'{"docid": "a", "text": }', ["malformed JSON at column 24"]),
        (b'{"docid": "a", "text": "cut', ["malformed JSON", "cut"]),
        (b'{"docid": "a"}{"docid": "b"}', ["malformed JSON at column 15: Extra data"]),
        (b'["docid", "a"]', ["not a JSON object", "['docid', 'a']"]),
        (b'"text"', ["not a JSON object", "'text'"]),
        (b"null", ["not a JSON object"]),
        (b'{"text": "\xff\xfe"}', ["not UTF-8 at byte 11", "b'\\xff\\xfe"]),
        (b'{"text": "a\\ud800b"}', ["field 'text'", "surrogate", "'a\\ud800b'"]),
        (b'{"ids": ["a", "\\uDfff"]}', ["field 'ids'", "surrogate"]),
        (b'{"docid": "a", "docid": "b"}', ["'docid' stands twice"]),
        (b'{"n": ' + b"9" * 5000 + b"}", ["JSON cannot be read", "digits"]),
        (b'{"n": ' + b"[" * 100_000 + b"}", ["nested too deeply"]),
        (b"", ["empty line", "Remove the line"]),
        (b"\xef\xbb\xbf{}", ["malformed JSON at column 1"]),  # a byte order mark in the middle
    ],
)
def test_bad_line_is_named(tmp_path, line, told):
    path = tmp_path / "x.jsonl"
    path.write_bytes(b"\n".join([RECORD.encode(), line, RECORD.encode(), b""]))
    with pytest.raises(DataError) as caught:
        rows_of(path)
    assert (caught.value.file, caught.value.line) == (path, 2)
    for part in (f"{path}:2: ", *told):
        assert part in str(caught.value)


def test_surrogate_pairs_are_one_character(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"text": "\\ud83d\\ude00"}\n')
    assert rows_of(path) == [(1, {"text": "\U0001f600"})]


@pytest.mark.parametrize("data", [b"", b"\n", b"  \r\n\n", b"\xef\xbb\xbf"])
def test_file_without_rows_is_refused(tmp_path, data):
    path = tmp_path / "x.jsonl"
    path.write_bytes(data)
    with pytest.raises(DataError, match="no rows") as caught:
        rows_of(path)
    assert caught.value.file == path


@pytest.mark.parametrize("name", ["x.jsonl.gz", "x.jsonl.zst"])
@pytest.mark.parametrize("damage", ["cut", "not compressed"])
def test_damaged_compression_names_the_file(tmp_path, name, damage):
    path = tmp_path / name
    compress("".join(f'{{"docid": "{n * 7919 % 10007}"}}\n' for n in range(50_000)).encode(), path)
    path.write_bytes(path.read_bytes()[:-2000] if damage == "cut" else RECORD.encode() * 20)
    with pytest.raises(DataError, match="cannot be read after line") as caught:
        rows_of(path)
    assert caught.value.file == path


def test_missing_file_and_directory_are_named(tmp_path):
    for path in (tmp_path / "none.jsonl", tmp_path):
        with pytest.raises(DataError, match="cannot be opened") as caught:
            rows_of(path)
        assert caught.value.file == path


def test_line_ends_of_windows(tmp_path):
    path = tmp_path / "x.txt"
    path.write_bytes(b"one\r\n\rtwo\r\r\n\r\nlast\r")
    assert list(read_lines(path)) == [(1, "one"), (2, "\rtwo\r"), (3, ""), (4, "last")]


@given(lines=st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\n\r")), min_size=1))
def test_lines_are_those_of_python(tmp_path_factory, lines):
    path = tmp_path_factory.mktemp("lines") / "x.txt"
    path.write_bytes("\n".join(lines).encode() + b"\n")
    expected = list(enumerate(lines, start=1))
    if expected[0][1].startswith("\ufeff"):
        expected[0] = (1, expected[0][1][1:])
    assert list(read_lines(path)) == expected


def test_two_columns_of_one_name_are_refused(tmp_path):
    path = tmp_path / "x.parquet"
    columns = [pa.array(["1"]), pa.array(["first"]), pa.array(["last"])]
    pq.write_table(pa.table(columns, names=["docid", "text", "text"]), path)
    for read in (read_parquet, read_table):
        with pytest.raises(DataError, match=r"x\.parquet: .*two columns have the name 'text'"):
            list(read(path))


def test_a_date_that_python_does_not_have_is_an_error_with_the_file(tmp_path):
    path = tmp_path / "x.parquet"
    times = pa.array([-(10**17)], pa.timestamp("us"))
    pq.write_table(pa.table({"docid": ["1"], "text": ["t"], "when": times}), path)
    for read in (read_parquet, read_table):
        with pytest.raises(DataError, match=r"x\.parquet: cannot be read"):
            list(read(path))
