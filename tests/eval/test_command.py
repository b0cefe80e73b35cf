from __future__ import annotations

import json
import subprocess
import sys

import pytest

import teva_eval
from teva_eval.cli import main


@pytest.fixture
def files(tmp_path):
    (tmp_path / "qrels.tsv").write_text("query_id\tdocid\tscore\nq 1\ta\t1\nq 2\ta\t1\n")
    (tmp_path / "good.tsv").write_text("q 1\ta\t2\nq 1\tb\t1\nq 2\ta\t1\n")
    (tmp_path / "bad.tsv").write_text("q 1\tb\t2\nq 1\ta\t1\n")
    return tmp_path


def test_one_run(files, capsys):
    status = main(["score", "--qrels", str(files / "qrels.tsv"), "--run", str(files / "bad.tsv"),
                   "--measures", "recip_rank", "R@1", "--json", str(files / "out.json"),
                   "--per-query", str(files / "out.tsv")])  # fmt: skip
    assert status == 0
    assert capsys.readouterr().out.splitlines()[:3] == [
        "RR                0.2500", "R@1               0.0000", "queries                2",
    ]  # fmt: skip
    record = json.loads((files / "out.json").read_text())
    assert record["schema"] == "1"
    assert [run["mean"] for run in record["runs"]] == [{"RR": 0.25, "R@1": 0.0}]
    assert (files / "out.tsv").read_text() == "query_id\tRR\tR@1\nq 1\t0.5\t0.0\nq 2\t0.0\t0.0\n"


def test_settings_reach_the_scores(files, capsys):
    arguments = ["score", "--qrels", str(files / "qrels.tsv"), "--run", str(files / "bad.tsv"), "--measures", "RR"]
    assert main([*arguments, "--missing", "drop"]) == 0
    assert "RR                0.5000" in capsys.readouterr().out
    assert main([*arguments, "--depth", "1"]) == 0
    assert "RR                0.0000" in capsys.readouterr().out
    assert main([*arguments, "--relevance-level", "2"]) == 0
    assert "without_relevant       2" in capsys.readouterr().out


def test_several_runs_make_one_table(files, capsys):
    names = [str(files / "good.tsv"), str(files / "bad.tsv")]
    status = main(["score", "--qrels", str(files / "qrels.tsv"), "--run", *names, "--measures", "RR", "nDCG@10",
                   "--json", str(files / "out.json"), "--per-query", str(files / "out.tsv")])  # fmt: skip
    assert status == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert rows[0] == ["run", "RR", "nDCG@10", "queries", "missing"]
    assert rows[1] == [names[0], "1.0000", "1.0000", "2", "0"]
    assert rows[2] == [names[1], "0.2500", "0.3155", "2", "1"]
    assert [run["settings"]["run"] for run in json.loads((files / "out.json").read_text())["runs"]] == names
    lines = (files / "out.tsv").read_text().splitlines()
    assert lines[0] == "run\tquery_id\tRR\tnDCG@10"
    assert lines[4].split("\t")[:3] == [names[1], "q 2", "0.0"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--run", "{good}", "--measures", "nDGC@10"], "Did you mean 'nDCG@10'?"),
        (["--run", "absent.tsv"], "absent.tsv: no such file"),
        (["--run"], "no run files"),
        (["--run", "{qrels}"], "qrels.tsv:1: field 'score': not a score"),
    ],
)
def test_errors_are_one_line(files, capsys, arguments, words):
    known = {"good": files / "good.tsv", "qrels": files / "qrels.tsv"}
    filled = [argument.format(**known) for argument in arguments]
    assert main(["score", "--qrels", str(files / "qrels.tsv"), *filled]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("teva-eval: error: ")
    assert words in captured.err
    assert captured.err.count("\n") == 1


def test_a_bad_run_leaves_no_output(files):
    (files / "broken.tsv").write_text("q 1\ta\tx\n")
    names = [str(files / "good.tsv"), str(files / "broken.tsv")]
    arguments = ["score", "--qrels", str(files / "qrels.tsv"), "--run", *names, "--json", str(files / "out.json")]
    assert main(arguments) == 1
    assert not (files / "out.json").exists()


def test_an_output_that_cannot_be_written_does_not_cost_the_scores(files, capsys):
    arguments = ["score", "--qrels", str(files / "qrels.tsv"), "--run", str(files / "good.tsv"), "--measures", "RR"]
    assert main([*arguments, "--json", str(files / "qrels.tsv" / "out.json")]) == 1
    captured = capsys.readouterr()
    assert "RR                1.0000" in captured.out
    assert captured.err.startswith("teva-eval: error: cannot write: ")


def test_importing_is_cheap():
    heavy = ["numpy", "pyarrow", "pytrec_eval", "tyro", "torch", "transformers"]
    code = f"import sys, teva_eval; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_the_docstrings_example():
    import doctest

    assert doctest.testmod(teva_eval).attempted == 3
    assert doctest.testmod(teva_eval).failed == 0
