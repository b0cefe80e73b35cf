"""What a user reads while work goes on: the line of a log, and the bar of a terminal."""

from __future__ import annotations

import io
import sys

import pytest

from teva_data import progress
from teva_data.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass where the test says so."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_the_count_tells_what_is_left(clock):
    with Progress(1000, "encode", "documents", done=200) as one:
        assert one.line() == "encode: 200 of 1,000 documents, 0.0 documents/s, ETA unknown"
        clock[0] += 10
        one.add(100, "7 tokens/s")
        assert one.line("7 tokens/s") == "encode: 300 of 1,000 documents, 10.0 documents/s, 1:10 left, 7 tokens/s"


def test_nobody_knows_what_is_left(clock):
    with Progress(None, "merge", "queries") as one:
        clock[0] += 2
        one.add(5)
        assert (one.line(), one.left()) == ("merge: 5 queries, 2.5 queries/s", None)


def test_the_caller_knows_better_what_is_left(clock):
    known = [None, 4000.0]
    with Progress(10, "encode", "documents", left=lambda: known[0]) as one:
        clock[0] += 10
        one.add(1)
        assert one.line() == "encode: 1 of 10 documents, 0.1 documents/s, ETA unknown"
        known.pop(0)
        assert one.line() == "encode: 1 of 10 documents, 0.1 documents/s, 1:06:40 left"


@pytest.mark.parametrize(("left", "shown"), [(None, "<0:00,"), (lambda: 4000.0, "<1:06:40,"), (lambda: None, "<?,")])
def test_a_bar_shows_the_same(monkeypatch, left, shown):
    monkeypatch.setattr(sys, "stderr", Terminal())
    with Progress(10, "encode", "documents", left=left) as one:
        one.add(9, "7 tokens/s")
        one._bar.refresh()
    last = sys.stderr.getvalue().split("\r")[-1]
    assert "encode:  90%|" in last
    assert " 9/10 [" in last
    assert "7 tokens/s]" in last
    assert shown in last


def test_a_bar_without_a_total_counts(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    with Progress(None, "merge", "queries") as one:
        one.add(9)
        one._bar.refresh()
    assert "merge: 9 queries [" in sys.stderr.getvalue().split("\r")[-1]
