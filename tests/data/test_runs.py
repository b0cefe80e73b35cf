from __future__ import annotations

import gzip
import random
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import pytrec_eval
from hypothesis import given, settings
from hypothesis import strategies as st

from teva_data.errors import DataError
from teva_data.runs import RunWriter, best_first, read_qrels, read_run, write_qrels, write_run


def written(directory: Path, content: str | bytes, name: str = "file.tsv") -> Path:
    path = directory / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


# The order


def test_order_is_trec_evals_on_ties_and_beyond_float32():
    """The oracle tells the rank of any document: 1 / recip_rank where it alone is relevant."""
    draw = random.Random(7)
    alphabet = ["a", "B", "é", "日", "\U0001f600", "\uffff", "10", "9", "-"]
    for _ in range(40):
        docids = list({"".join(draw.choices(alphabet, k=draw.randint(1, 3))) for _ in range(12)})
        scores = [draw.choice([1.0, 1.0 + 1e-10, 2.0, -0.5, 16777216.0, 16777217.0]) for _ in docids]
        ranks = {}
        for docid in docids:
            evaluator = pytrec_eval.RelevanceEvaluator({"q": {docid: 1}}, {"recip_rank"})
            value = evaluator.evaluate({"q": dict(zip(docids, scores, strict=True))})["q"]["recip_rank"]
            ranks[round(1 / value)] = docid
        assert [docid for docid, _ in best_first(docids, scores)] == [ranks[rank] for rank in sorted(ranks)]


def test_best_first_refuses_what_is_no_ranking():
    with pytest.raises(DataError, match=r"score of 'b'.*nan"):
        best_first(["a", "b"], [1.0, float("nan")])
    with pytest.raises(DataError, match=r"\(2, 1\)"):
        best_first(["a", "b"], [1.0])


# Reading runs


def test_three_columns_by_tab_keep_spaces_in_ids(tmp_path):
    path = written(tmp_path, "q 1\tdoc a\t0.5\nq2\td\t1\nq 1\tdoc b\t0.75\n\n")
    assert read_run(path) == {"q 1": [("doc b", 0.75), ("doc a", 0.5)], "q2": [("d", 1.0)]}


def test_three_columns_by_white_space(tmp_path):
    assert read_run(written(tmp_path, "q1  a 2\nq1\x0bb\t3\r\n")) == {"q1": [("b", 3.0), ("a", 2.0)]}


def test_white_space_of_other_scripts_is_part_of_an_id(tmp_path):
    assert read_run(written(tmp_path, "q\u3000x d\u00a0y 1\n")) == {"q\u3000x": [("d\u00a0y", 1.0)]}


@pytest.mark.parametrize(
    "content",
    [
        "1 Q0 b 1 0.5 tag\n1 Q0 a 2 0.5 tag\n1 Q0 c 9 0.7 tag\n",
        "1\tQ0\tb\t414\t  0.5\tSTANDARD\n1\tQ0\ta\t4\t  0.5\tSTANDARD\n1\tQ0\tc\t1\t  0.7\tSTANDARD\n",
        "# a comment\n1 Q0 b 1 0.5 tag more junk at the\n1 Q0 a 2 0.5 tag\n  \n# end\n1\tQ0\tc\t9\t0.7\ttag",
    ],
    ids=["spaces", "tabs", "comments, junk, mixed"],
)
def test_trec_columns_without_the_rank(tmp_path, content):
    assert read_run(written(tmp_path, content)) == {"1": [("c", float(np.float32(0.7))), ("b", 0.5), ("a", 0.5)]}


def test_trec_columns_by_tab_keep_spaces_in_ids(tmp_path):
    assert read_run(written(tmp_path, "q 1\tQ0\tdoc a\t1\t0.5\ttag\n")) == {"q 1": [("doc a", 0.5)]}


def test_a_docid_with_a_space_does_not_turn_the_rank_into_the_score(tmp_path):
    path = written(tmp_path, "1 Q0 ok 1 0.5 tag\n1 Q0 my doc 7 0.9 tag\n")
    with pytest.raises(DataError, match=r"file\.tsv:2: wrong number of columns"):
        read_run(path)


def test_hash_begins_an_id_where_there_are_no_comments(tmp_path):
    assert read_run(written(tmp_path, "#1\td\t1\n2\td\t1\n")) == {"#1": [("d", 1.0)], "2": [("d", 1.0)]}
    assert read_run(written(tmp_path, "#1\td\t1\n#2\td\t1\n")) == {"#1": [("d", 1.0)], "#2": [("d", 1.0)]}


def test_byte_order_mark_is_no_part_of_an_id(tmp_path):
    assert list(read_run(written(tmp_path, b"\xef\xbb\xbfq\td\t1\n"))) == ["q"]


def test_compressed(tmp_path):
    content = b"q\ta\t1\nq\tb\t2\n"
    with pa.CompressedOutputStream(str(tmp_path / "run.zst"), "zstd") as file:
        file.write(content)
    expected = {"q": [("b", 2.0), ("a", 1.0)]}
    assert read_run(written(tmp_path, gzip.compress(content), "run.gz")) == expected
    assert read_run(tmp_path / "run.zst") == expected


@pytest.mark.parametrize(
    ("content", "line", "field", "words"),
    [
        ("", 1, None, "empty"),
        ("\n \n", 1, None, "empty"),
        ("# comment\n", 1, None, "3 columns"),
        ("# only a comment of six words\n", None, None, "no rows"),
        ("q\td\n", 1, None, "3 columns (query_id, docid, score) or TREC's 6"),
        ("q\td\t1\nq\te\n", 2, None, "expected 3"),
        ("q\td\t1\nq\te\t1\t2\n", 2, None, "expected 3"),
        ("q Q0 d 1 1.0 t\n\nq Q0 e 1 1.0\n", 3, None, "expected 6"),
        ("q\td\t1\nq\te\tx\n", 2, "score", "'x'"),
        ("q\td\tnan\n", 1, "score", "'nan'"),
        ("q\td\t-inf\n", 1, "score", "'-inf'"),
        ("q\td\t1e39\n", 1, "score", "float32"),
        ("q\td\t1_0\n", 1, "score", "'1_0'"),
        ("q\td\t\n", 1, "score", "''"),
        ("q\td\t1\nr\td\t1\nq\td\t2\n", 3, "docid", "twice for query 'q'"),
        ("q\t\t1\n", 1, "docid", "empty id"),
        ("\td\t1\n", 1, "query_id", "empty id"),
        ("q\ta\0b\t1\n", 1, "docid", "NUL"),
        (b"q\td\t1\nq\t\xff\t1\n", 2, "docid", "UTF-8"),
        ("query_id\tdocid\tscore\nq\td\t1\n", 1, "score", "'score'"),
    ],
)
def test_bad_runs_have_an_address(tmp_path, content, line, field, words):
    path = written(tmp_path, content)
    with pytest.raises(DataError) as caught:
        read_run(path)
    error = caught.value
    assert (error.file, error.line, error.field) == (path, line, field)
    assert words in str(error)
    assert str(error).startswith(f"{path}:{line}: " if line else f"{path}: ")


def test_files_that_cannot_be_read(tmp_path):
    whole = gzip.compress("".join(f"q\td{row}\t{row}\n" for row in range(20000)).encode())
    cut = written(tmp_path, whole[: len(whole) // 2], "cut.gz")
    with pytest.raises(DataError, match=r"cut\.gz:\d+: cannot be read further"):
        read_run(cut)
    with pytest.raises(DataError, match=r"plain\.gz:1: cannot be read further"):
        read_run(written(tmp_path, "q\td\t1\n", "plain.gz"))
    with pytest.raises(DataError, match="no such file"):
        read_run(tmp_path / "absent.tsv")
    with pytest.raises(DataError, match="cannot be read"):
        read_run(tmp_path)


# Writing runs

ids = st.text(st.characters(exclude_characters="\t\r\n\0", exclude_categories=["Cs"]), min_size=1).filter(
    lambda text: not text.startswith("\ufeff")
)
plain_ids = st.text(st.characters(exclude_categories=["Cs", "Zs", "Zl", "Zp", "Cc"]), min_size=1).filter(
    lambda text: not text.startswith(("\ufeff", "#"))
)
float32 = st.floats(width=32, allow_nan=False, allow_infinity=False)


def runs(names):
    found = st.dictionaries(names, float32, min_size=1, max_size=5)
    return st.dictionaries(names, found, min_size=1, max_size=4)


@settings(deadline=None, max_examples=60)
@given(run=runs(ids), packed=st.booleans())
def test_tsv_round_trip(tmp_path_factory, run, packed):
    path = tmp_path_factory.mktemp("runs") / ("run.tsv.gz" if packed else "run.tsv")
    write_run(path, {query_id: list(found.items()) for query_id, found in run.items()})
    expected = {query_id: best_first(list(found), list(found.values())) for query_id, found in run.items()}
    assert read_run(path) == expected


@settings(deadline=None, max_examples=60)
@given(run=runs(plain_ids))
def test_trec_round_trip(tmp_path_factory, run):
    path = tmp_path_factory.mktemp("runs") / "run.trec"
    write_run(path, {query_id: list(found.items()) for query_id, found in run.items()}, layout="trec")
    expected = {query_id: best_first(list(found), list(found.values())) for query_id, found in run.items()}
    assert read_run(path) == expected


def test_no_ties_are_invented(tmp_path):
    score = np.float32(0.1)
    scores = [float(score), float(np.nextafter(score, np.float32(1))), float(np.finfo(np.float32).max), 1e-45]
    write_run(tmp_path / "run", {"q": list(zip("abcd", scores, strict=True))})
    assert [docid for docid, _ in read_run(tmp_path / "run")["q"]] == ["c", "b", "a", "d"]
    assert len({score for _, score in read_run(tmp_path / "run")["q"]}) == 4


def test_layouts_as_written(tmp_path):
    run = {"q": [("a", 0.5), ("b", 0.5), ("c", 2.0)]}
    write_run(tmp_path / "tsv", run)
    write_run(tmp_path / "trec", run, layout="trec", tag="mine")
    assert (tmp_path / "tsv").read_text() == "q\tc\t2.0\nq\tb\t0.5\nq\ta\t0.5\n"
    assert (tmp_path / "trec").read_text() == "q Q0 c 1 2.0 mine\nq Q0 b 2 0.5 mine\nq Q0 a 3 0.5 mine\n"


@pytest.mark.parametrize("name", ["a\tb", "a\nb", "a\rb", "a\0b", "", "\ufeffa", "\ud800"])
@pytest.mark.parametrize("layout", ["tsv", "trec"])
def test_ids_that_would_not_come_back_are_named(tmp_path, name, layout):
    with pytest.raises(DataError) as caught:
        write_run(tmp_path / "run", {"q": [("good", 2.0), (name, 1.0)]}, layout=layout)
    assert repr(name) in str(caught.value)
    assert "docid of query 'q'" in str(caught.value)
    with pytest.raises(DataError, match="query_id"):
        write_run(tmp_path / "run", {name: [("d", 1.0)]}, layout=layout)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a b", "#a", "a\u3000b"])
def test_trec_refuses_white_space_and_comments(tmp_path, name):
    with pytest.raises(DataError, match="layout='tsv'"):
        write_run(tmp_path / "run", {name: [("d", 1.0)]}, layout="trec")
    with pytest.raises(DataError, match="tag"):
        RunWriter(tmp_path / "run", layout="trec", tag=name)
    write_run(tmp_path / "run", {name: [("d", 1.0)]})
    assert read_run(tmp_path / "run") == {name: [("d", 1.0)]}


def write_all(path, rows):
    with RunWriter(path) as writer:
        for row in rows:
            writer.write(*row)


def test_writer_refuses_and_leaves_nothing(tmp_path):
    for rows, words in [
        ([("q", ["a"], [1.0]), ("q", ["b"], [1.0])], "query written twice"),
        ([("q", ["a", "b", "a"], [1.0, 2.0, 3.0])], "twice for query 'q'"),
        ([("q", ["a"], [float("inf")])], "not a score"),
        ([("q", ["a"], [1.0, 2.0])], "as many scores"),
        ([], "the run is empty"),
        ([("q", [], [])], "the run is empty"),
    ]:
        with pytest.raises(DataError, match=words):
            write_all(tmp_path / "run", rows)
        assert list(tmp_path.iterdir()) == []
    with pytest.raises(DataError, match="zst"):
        RunWriter(tmp_path / "run.zst")
    with pytest.raises(DataError, match="'csv'"):
        RunWriter(tmp_path / "run", layout="csv")
    with pytest.raises(ValueError, match="with"):
        RunWriter(tmp_path / "run").write("q", ["d"], [1.0])


def test_a_failed_query_can_be_written_again(tmp_path):
    with RunWriter(tmp_path / "run") as writer:
        with pytest.raises(DataError):
            writer.write("q", ["a\tb"], [1.0])
        writer.write("q", ["a"], np.asarray([1.0], dtype=np.float32))
    assert read_run(tmp_path / "run") == {"q": [("a", 1.0)]}


def test_killed_writer_leaves_the_old_file(tmp_path):
    path = written(tmp_path, "old\td\t1\n", "run")
    script = (
        "import sys, time; from teva_data.runs import RunWriter\n"
        "with RunWriter(sys.argv[1]) as writer:\n"
        "    for row in range(2000): writer.write(f'q{row}', ['d' * 90], [1.0])\n"
        "    print('written', flush=True); time.sleep(60)\n"
    )
    child = subprocess.Popen([sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "written\n"
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    assert path.read_text() == "old\td\t1\n"


def test_reads_a_pipe():
    command = [sys.executable, "-c", "from teva_data.runs import read_run; print(read_run('/dev/stdin'))"]
    done = subprocess.run(command, input="q\td\t1\n", text=True, capture_output=True, check=True)
    assert done.stdout.strip() == "{'q': [('d', 1.0)]}"


# Qrels


@pytest.mark.parametrize(
    "content",
    [
        "query-id\tcorpus-id\tscore\nq 1\tdoc a\t2\nq 1\tb\t-1\nq2\ta\t0\n",
        "query_id\tdocid\tscore\r\nq 1\tdoc a\t2\r\nq 1\tb\t-1\r\nq2\ta\t0\r\n",
        "\ufeffscore\tdoc_id\tquery_id\n2\tdoc a\tq 1\n-1\tb\tq 1\n0\ta\tq2\n",
        "Query-ID\tCorpus-ID\tRelevance\nq 1\tdoc a\t2.0\nq 1\tb\t-1\nq2\ta\t0",
        "q 1\t0\tdoc a\t2\nq 1\tQ0\tb\t-1\n\nq2\t0\ta\t0\n",
    ],
    ids=["beir", "ours, crlf", "bom, other order", "capitals, no end of line", "trec by tab"],
)
def test_qrels_layouts(tmp_path, content):
    expected = {"q 1": {"doc a": 2, "b": -1}, "q2": {"a": 0}}
    assert read_qrels(written(tmp_path, content)) == expected
    assert read_qrels(written(tmp_path, gzip.compress(content.encode()), "qrels.gz")) == expected


def test_trec_qrels_with_comments(tmp_path):
    """As in trec_eval 10: a line that begins with # is a comment, a # in a docid is not."""
    path = written(tmp_path, "# one\n301 0 CR-1 0\n# two\n301  0\tCR#2 1\n#301 0 CR-3 1\n")
    assert read_qrels(path) == {"301": {"CR-1": 0, "CR#2": 1}}


def test_header_by_white_space(tmp_path):
    assert read_qrels(written(tmp_path, "query_id docid score\nq a 1\n")) == {"q": {"a": 1}}


def test_large_grades_are_exact(tmp_path):
    assert read_qrels(written(tmp_path, "q 0 a 9007199254740993\n")) == {"q": {"a": 9007199254740993}}


@pytest.mark.parametrize(
    ("content", "line", "field", "words"),
    [
        ("", 1, None, "empty"),
        ("query_id\tdocid\tscore\n", None, None, "no judgements"),
        ("# a b c\n", None, None, "no judgements"),
        ("q\td\t1\n", 1, None, "header"),
        ("query-id\tcorpus-id\n", 1, None, "three columns"),
        ("query-id\tcorpus-id\tscore\trank\nq\td\t1\t1\n", 1, None, "three columns"),
        ("query-id\tquery_id\tscore\nq\td\t1\n", 1, None, "three columns"),
        ("query-id\tcorpus-id\tscore\nq\td\t1\nq\te\n", 3, None, "expected 3"),
        ("query-id\tcorpus-id\tscore\n# no comment\nq\td\t1\n", 2, None, "expected 3"),
        ("q 0 d 1\nq 0 e\n", 2, None, "expected 4"),
        ("q 0 d 1\nq 0 e 1 1\n", 2, None, "expected 4"),
        ("q 0 d 0.5\n", 1, "score", "an integer"),
        ("q 0 d nan\n", 1, "score", "an integer"),
        ("q 0 d inf\n", 1, "score", "an integer"),
        ("q 0 d 1_0\n", 1, "score", "an integer"),
        ("q 0 d yes\n", 1, "score", "'yes'"),
        ("q 0 d 1\n# c\nq 0 d 0\n", 3, "docid", "twice for query 'q'"),
        ("query-id\tcorpus-id\tscore\nq\t\t1\n", 2, "docid", "empty id"),
        (b"q 0 \xff 1\n", 1, "docid", "UTF-8"),
    ],
)
def test_bad_qrels_have_an_address(tmp_path, content, line, field, words):
    path = written(tmp_path, content)
    with pytest.raises(DataError) as caught:
        read_qrels(path)
    error = caught.value
    assert (error.file, error.line, error.field) == (path, line, field)
    assert words in str(error)


def test_the_message_of_a_missing_header_says_what_to_do(tmp_path):
    path = written(tmp_path, "q\td\t1\n")
    with pytest.raises(DataError) as caught:
        read_qrels(path)
    assert str(caught.value) == (
        f"{path}:1: not the first line of qrels; found 'q\\td\\t1'; expected a header (query_id, docid, score), or "
        "TREC's 4 columns without one. Write BEIR's header `query_id<TAB>docid<TAB>score` above the rows, or use "
        "TREC's four columns"
    )


@settings(deadline=None, max_examples=60)
@given(
    qrels=st.dictionaries(ids, st.dictionaries(ids, st.integers(), min_size=1, max_size=4), min_size=1, max_size=4),
    packed=st.booleans(),
)
def test_qrels_round_trip(tmp_path_factory, qrels, packed):
    path = tmp_path_factory.mktemp("qrels") / ("qrels.tsv.gz" if packed else "qrels.tsv")
    write_qrels(path, qrels)
    assert read_qrels(path) == qrels


def test_qrels_as_written_and_refused(tmp_path):
    write_qrels(tmp_path / "qrels", {"q": {"a": 2, "b": np.int64(-1)}})
    assert (tmp_path / "qrels").read_text() == "query_id\tdocid\tscore\nq\ta\t2\nq\tb\t-1\n"
    for qrels, words in [
        ({}, "no judgements"),
        ({"q": {}}, "query without judgements"),
        ({"q": {"a\tb": 1}}, "cannot be written"),
        ({"q\n": {"a": 1}}, "cannot be written"),
        ({"q": {"a": 0.5}}, "an integer"),
        ({"q": {"a": True}}, "an integer"),
    ]:
        with pytest.raises(DataError, match=words):
            write_qrels(tmp_path / "other", qrels)
    assert [path.name for path in tmp_path.iterdir()] == ["qrels"]
