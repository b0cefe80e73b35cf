"""The command line ``teva-data``, and what importing the package costs."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys

import pytest

import teva_data
from teva_data.cli import main
from teva_data.commandline import gathered, run
from teva_data.dataset import Dataset
from teva_data.errors import RecipeError
from teva_data.running import make_output
from teva_data.runs import write_run
from teva_data.stats import statistics


@pytest.fixture
def pairs(tmp_path):
    path = tmp_path / "pairs.csv"
    path.write_text("question,answer\n" + "".join(f"question {n},answer {n * 11}\n" for n in range(50)))
    return path


def test_an_option_may_be_given_several_times():
    """Its words are put together; the parser alone would take the last and drop the others."""
    for given, parsed in (
        ("tune i --knob a=1 --out o --knob b=2 c=3 --x", "tune i --knob a=1 b=2 c=3 --out o --x"),
        ("v p --out=o --s 1 --s=2 --seed=-1", "v p --out=o --s 1 2 --seed=-1"),
        ("x --a.b 1 --a.b 2 --c 3", "x --a.b 1 --a.b 2 --c 3"),
        ("a --k 1 --j 2 --k 3 --j 4 --k 5", "a --k 1 3 5 --j 2 4"),
        ("v -- x", "v -- x"),
    ):
        assert gathered(given.split()) == parsed.split()


def test_convert_mine_and_count(pairs, tmp_path, capsys):
    data, run = tmp_path / "data", tmp_path / "run.tsv"
    assert main(["convert", str(pairs), str(data), "--held-out", "0.2"]) == 0
    dataset = Dataset.open(data)
    docids = dataset.corpus.docids(0, 50)
    train = dataset.queries("train")
    write_run(run, {query_id: [(docid, 1.0) for docid in docids] for query_id in train.query_ids(0, len(train))})
    output = data / "train-mined.jsonl"
    assert main(["negatives", str(data), "--run", str(run), "--output", str(output), "--count", "4"]) == 0
    mined = Dataset.open(data).queries("train-mined")
    assert [len(query.negative_document_ids) for query in mined] == [4] * len(train)
    capsys.readouterr()
    assert main(["stats", str(data)]) == 0
    printed = capsys.readouterr().out
    assert printed.splitlines()[0].split() == [
        "rows",
        "of",
        "each",
        "mean",
        "min",
        "median",
        "90",
        "%",
        "99",
        "%",
        "max",
    ]
    assert f"train-mined  {len(train):4}  negatives" in printed


def test_statistics_are_those_of_the_rows(tmp_path):
    texts = ["é" * n for n in (1, 2, 3, 4, 1000)]
    rows = [{"docid": n, "text": text, "title": "ab" if n else None} for n, text in enumerate(texts)]
    (tmp_path / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    queries = [{"_id": n, "query": "x" * (n + 1), "positive_document_ids": ["0"] * n} for n in range(3)]
    (tmp_path / "dev.jsonl").write_text("".join(json.dumps(row) + "\n" for row in queries))
    corpus, dev = statistics(tmp_path).parts
    assert (corpus.name, corpus.rows, dev.name, dev.rows) == ("corpus", 5, "dev", 3)
    assert corpus.spreads["text"] == pytest.approx((202.0, 1, 3, 4 + 0.6 * 996, 4 + 0.96 * 996, 1000))
    assert corpus.spreads["title and text"][0] == pytest.approx((1 + 4 + 5 + 6 + 1002) / 5)
    assert dev.spreads["positives"][:3] == (1.0, 0.0, 1.0)
    assert dev.spreads["negatives"] == (0.0,) * 6


def test_error_is_one_line_and_a_status(tmp_path, capsys):
    (tmp_path / "corpus.jsonl").write_text('{"docid": "a", "text": "b"}\n{"docid": "a", "text": "c"}\n')
    assert main(["stats", str(tmp_path)]) == 1
    printed = capsys.readouterr().err.splitlines()[-1]
    assert printed.startswith(f"teva-data: error: {tmp_path}/corpus.jsonl:2: field 'docid': duplicate id")


def test_help_and_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"teva-data {importlib.metadata.version('teva-data')}\n"
    for verb, words in {
        "convert": ["SOURCE", "--from FORMAT", "--held-out"],
        "negatives": ["--run", "--skip"],
    }.items():
        with pytest.raises(SystemExit) as caught:
            main([verb, "--help"])
        assert caught.value.code in (0, None)
        printed = capsys.readouterr().out
        assert all(word in printed for word in words)


def imported_by(code: str) -> set[str]:
    """Top-level packages in ``sys.modules`` of a new interpreter that has run ``code``."""
    script = f"{code}\nimport sys\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    return set(
        subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout.split()
    )


def test_importing_is_cheap():
    heavy = {"torch", "jax", "transformers", "pyarrow", "numpy", "pydantic", "tyro", "xxhash", "yaml", "tqdm"}
    assert imported_by("import teva_data").isdisjoint(heavy)
    assert imported_by("from teva_data import Dataset").isdisjoint({"torch", "jax", "transformers", "pyarrow", "tyro"})
    # The test can see what it looks for.
    assert {"numpy", "pyarrow"} <= imported_by("import numpy, pyarrow")


def test_public_names():
    for name in teva_data.__all__:
        assert getattr(teva_data, name) is not None
        assert name in dir(teva_data)
    assert callable(teva_data.convert)
    assert dict.fromkeys(("dataset", "recipe", "artifact", "embeddings"), "1") == teva_data.SCHEMA
    with pytest.raises(AttributeError, match="Datset"):
        _ = teva_data.Datset


@pytest.mark.parametrize(
    ("words", "told"), [([], "command goes"), (["--overwrite"], "command, without --overwrite, goes")]
)
def test_who_presses_ctrl_c_is_told_how_it_goes_on(capsys, words, told):
    def verb(overwrite: bool = False) -> None:
        raise KeyboardInterrupt

    assert run("teva-data", "It.", {"verb": verb, "other": verb}, ["verb", *words]) == 130
    assert f"stopped. The same {told} on from what is whole" in capsys.readouterr().err


def test_an_output_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    for place in ("file", "file/below"):
        with pytest.raises(RecipeError, match=rf"train\.output: .*{place}: cannot be made"):
            make_output(tmp_path / place)
    make_output(tmp_path / "run")
    make_output(tmp_path / "run")
    assert (tmp_path / "run").is_dir()
