"""Mutated files load right or are refused with an address; the claim ``fuzzed_files`` tries ten thousand."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from benchmarks import fuzz

from teva_data import records


def test_mutated_files_load_right_or_are_refused(tmp_path):
    verdicts = list(fuzz.fuzz(500, 7, tmp_path))
    assert [verdict for verdict in verdicts if not verdict.passed] == []
    outcomes = Counter((verdict.kind, verdict.outcome) for verdict in verdicts)
    for kind in fuzz.KINDS:
        assert outcomes[kind, "loaded"] > 10
        assert outcomes[kind, "refused"] > 10
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("join_title", None),
        ("_string", lambda row, field, value: str(value or "")),
        ("_identifier", lambda row, field, value: str(value)),
    ],
)
def test_the_fuzzer_sees_a_reader_that_checks_less(tmp_path, monkeypatch, name, function):
    """The check can fail: a reader that takes anything for a text or an id is told from the right one."""
    if function is not None:
        monkeypatch.setattr(records, name, function)
    failed = [verdict for verdict in fuzz.fuzz(400, 11, tmp_path) if not verdict.passed]
    assert bool(failed) == (function is not None)


def test_every_mutation_changes_some_file():
    for name, mutate in fuzz.MUTATIONS.items():
        changed = 0
        for number in range(20):
            rng = random.Random(number)
            data = fuzz.KINDS["corpus.jsonl"][0](rng)
            changed += mutate(rng, data) != data
        assert changed, name
