"""Reports and comparisons, of records as they are written."""

from __future__ import annotations

import json
from html.parser import HTMLParser

import pytest

from teva_data.errors import DataError, TevaError
from teva_eval import benchmark, compare, report
from teva_eval.cli import main
from teva_eval.records import SCHEMA


def write_result(place, system, task, measure, values, *, variants=None, base="", dim=None):
    """A record with what reports read of it, and the file of values."""
    place = place / system / task
    place.mkdir(parents=True)
    mean = sum(values.values()) / len(values)
    record = {
        "schema": SCHEMA, "task": {"name": task, "measures": [measure], "hub": "x/y", "revision": None, "split": "test",
                                   "answers": False},
        "system": {"name": system, "base_model": base, "dim": dim}, "scores": {measure: mean},
        "variants": {name: {measure: value} for name, value in (variants or {}).items()},
        "data": {"documents": 10, "corpus_fingerprint": "f"}, "counts": {"queries": len(values), "missing": 0},
        "settings": {"title": "join", "self_hits": "keep", "missing": "zero", "depth": 10, "ties": "t"},
        "versions": {"numpy": "2"}, "runs": {"": {"file": "run.tsv.gz", "checksum": "c"}}, "request": {},
    }  # fmt: skip
    (place / "result.json").write_text(json.dumps(record))
    lines = [f"query_id\t{measure}", *(f"{query_id}\t{value!r}" for query_id, value in values.items())]
    (place / "per_query.tsv").write_text("\n".join(lines) + "\n")


@pytest.fixture
def results(tmp_path):
    for number, task in enumerate(benchmark("beir").tasks):
        write_result(tmp_path, "ours", task.name, "nDCG@10", {"q": 0.5 + number / 100}, base="Tiny-1B")
        write_result(tmp_path, "a_b & <i>", task.name, "nDCG@10", {"q": 0.4}, variants={"dim=64": 0.3}, dim=128)
    write_result(tmp_path, "ours", "msrvtt-1k-a", "R@1", {"q": 0.25})
    write_result(tmp_path, "partial", "scifact", "nDCG@10", {"q": 0.9})
    return tmp_path


class Words(HTMLParser):
    """Every tag is closed, nothing is fetched."""

    def __init__(self):
        super().__init__()
        self.open, self.outside, self.text = [], [], []

    def handle_starttag(self, tag, attrs):
        if tag not in ("meta", "img"):
            self.open.append(tag)
        self.outside += [value for name, value in attrs if name in ("src", "href") and not value.startswith("data:")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_report(results):
    page, text, tex = (path.read_text() for path in report([results], results / "out", title="A & B"))
    words = Words()
    words.feed(page)
    assert words.open == []
    assert words.outside == []
    assert "a_b & <i>" in words.text
    assert "A & B" in words.text
    assert "data:image/svg+xml" in page
    # The mean over the 13 tasks, and published rows marked so.
    assert "| ours | Tiny-1B | **56.0** | – | – |" in text
    assert "| Tevatron-Omni† | Qwen2.5Omni | 58.2 | 85.8 | 69.1 |" in text
    assert "| ours | Tiny-1B | 25.0 | – |" in text
    # A system with one of the 13 tasks has no number of the benchmark.
    assert "partial" not in text.partition("## Tasks")[0]
    assert r"\textbf{56.0}" in tex
    assert r"a\_b \& <i>" in tex
    assert tex.count(r"\begin{tabular}") == tex.count(r"\end{tabular}") == 3
    without = report([results], results / "other", reference=False)[1].read_text()
    assert "Tevatron-Omni" not in without


def test_report_needs_results(tmp_path):
    with pytest.raises(DataError, match="no results"):
        report([tmp_path], tmp_path / "out")
    (tmp_path / "result.json").write_text('{"schema": "0"}')
    with pytest.raises(DataError, match="not a result of this version"):
        report([tmp_path], tmp_path / "out")


def test_compare(tmp_path, capsys):
    queries = [f"q{number}" for number in range(40)]
    for task in ("one", "two"):
        write_result(tmp_path, "a", task, "RR@10", dict.fromkeys(queries, 0.5))
    write_result(tmp_path, "b", "one", "RR@10", {query: 0.6 + number / 200 for number, query in enumerate(queries)})
    write_result(tmp_path, "b", "two", "RR@10", {query: 0.5 + (-1) ** n / 10 for n, query in enumerate(queries)})
    found = compare(tmp_path / "a", tmp_path / "b")
    assert found.significant() == ("one",)
    assert [each.found.wins for each in found.tasks] == [40, 20]
    assert found.tasks[0].adjusted == pytest.approx(2 * found.tasks[0].found.p)
    assert found.tasks[0].changed[0].query_id == "q39"
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    assert "+0.1975" in capsys.readouterr().out
    with pytest.raises(TevaError, match="several results of the task"):
        compare(tmp_path, tmp_path / "a")
    with pytest.raises(DataError, match="not among the measures"):
        compare(tmp_path / "a", tmp_path / "b", measure="AP@3")
    values = tmp_path / "b" / "one" / "per_query.tsv"
    values.write_text(values.read_text().replace("q39\t", "q40\t"))
    with pytest.raises(DataError, match="results over other queries"):
        compare(tmp_path / "a", tmp_path / "b")
    values.write_text("query_id\tRR@10\nq1\n")
    with pytest.raises(DataError, match=r"per_query\.tsv:2: wrong columns"):
        compare(tmp_path / "a", tmp_path / "b")
