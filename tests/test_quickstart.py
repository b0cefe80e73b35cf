"""The quickstart: its dataset of the real standard library, its report, and the whole of it on tiny data."""

from __future__ import annotations

import csv
import importlib
import inspect
import json
import math
import os
import shlex
import subprocess
import sys
import textwrap
from html.parser import HTMLParser
from pathlib import Path

import pytest
from examples.quickstart import docstrings
from examples.quickstart.__main__ import main
from examples.quickstart.compare import compare, evenly, rank
from examples.quickstart.data import prepare
from examples.quickstart.options import Options
from examples.quickstart.splitting import hold_out
from examples.quickstart.tour import Tour

from teva_data.dataset import Dataset
from teva_data.errors import DataError
from teva_data.files import checksum
from teva_data.records import Query
from teva_data.runs import read_qrels, read_run

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def built():
    return docstrings.build(docstrings.standard_library())


class TestDocstrings:
    def test_there_is_enough_to_train_and_to_test_on(self, built):
        documents, train, test = built
        assert len(documents) > 2000
        assert len(train) > 1200
        assert 250 < len(test) <= docstrings.HELD_OUT * (len(train) + len(test)) + 1

    def test_no_answer_and_no_package_of_the_test_is_trained_on(self, built):
        _, train, test = built
        trained = {docid for query in train for docid in query.positive_document_ids}
        asked = {docid for query in test for docid in query.positive_document_ids}
        assert not trained & asked
        # A held-out query's answers lie in held-out packages, and no query for training is answered there alone.
        held = {docstrings.package(docid) for docid in asked}
        for query in train:
            assert {docstrings.package(docid) for docid in query.positive_document_ids} - held

    def test_every_id_resolves_and_stands_once(self, built):
        documents, train, test = built
        docids = [document.docid for document in documents]
        assert len(set(docids)) == len(docids)
        assert len({query.query_id for query in (*train, *test)}) == len(train) + len(test)
        assert {docid for query in (*train, *test) for docid in query.positive_document_ids} <= set(docids)

    def test_equal_texts_are_one(self, built):
        documents, train, test = built
        texts = [" ".join(document.document_text.split()).casefold() for document in documents]
        assert len(set(texts)) == len(texts)
        queries = [query.query_text.casefold() for query in (*train, *test)]
        assert len(set(queries)) == len(queries)

    def test_no_document_holds_its_query(self, built):
        documents, train, test = built
        texts = {document.docid: " ".join(document.document_text.split()).casefold() for document in documents}
        for query in (*train, *test):
            for docid in query.positive_document_ids:
                assert query.query_text.casefold() not in texts[docid]

    @pytest.mark.parametrize("name", ["queue:Queue.get", "textwrap:shorten", "ipaddress:ip_network"])
    def test_a_document_is_the_rest_of_what_python_itself_shows(self, built, name):
        documents, train, test = built
        module, _, path = name.partition(":")
        value = importlib.import_module(module)
        for part in path.split("."):
            value = getattr(value, part)
        shown = " ".join(inspect.getdoc(value).split())
        query = next(q.query_text for q in (*train, *test) if name in q.positive_document_ids)
        text = " ".join(next(d.document_text for d in documents if d.docid == name).split())
        assert f"{query}. {text}" == shown

    def test_tests_and_other_peoples_packages_are_left_out(self, built):
        documents, _, _ = built
        parts = {part for document in documents for part in document.docid.partition(":")[0].split(".")}
        assert not parts & {"test", "tests", "site-packages", "idlelib", "turtledemo", "pip"}
        assert {"asyncio", "email", "json"} <= parts

    def test_it_is_the_same_in_another_process_and_imports_nothing(self, built):
        program = textwrap.dedent("""
            import sys
            from examples.quickstart import docstrings
            from teva_data.files import fingerprint
            before = set(sys.modules)
            documents, train, test = docstrings.build(docstrings.standard_library())
            new = {name.partition(".")[0] for name in set(sys.modules) - before}
            assert not new & {docstrings.package(document.docid) for document in documents} - {"encodings"}, new
            print(fingerprint(*map(str, (*documents, *train, *test))))
        """)
        from teva_data.files import fingerprint

        here = fingerprint(*map(str, (*built[0], *built[1], *built[2])))
        for seed in ("1", "2"):
            done = subprocess.run(
                [sys.executable, "-c", program], cwd=ROOT, env={**os.environ, "PYTHONHASHSEED": seed},
                capture_output=True, text=True, check=True,
            )  # fmt: skip
            assert done.stdout.strip() == here

    @pytest.mark.parametrize(
        ("text", "query", "document"),
        [
            ("Do it.\n\nAll of it.", "Do it", "All of it."),
            ("Do it. Then rest.", "Do it", "Then rest."),
            ("Do it\nquickly, e.g. Now or\nnever.\n\nMore.", "Do it quickly, e.g. Now or never", "More."),
            ("Read version 3.11 of it. `x` is read.\n\nMore.", "Read version 3.11 of it", "`x` is read.\n\nMore."),
            ("Only a summary.", "Only a summary", ""),
            ("Is it?  Yes.", "Is it?", "Yes."),
        ],
    )
    def test_the_first_sentence_is_the_query(self, text, query, document):
        assert docstrings.take_apart(text) == (query, document)

    def test_what_is_merged_and_what_is_no_query(self, tmp_path):
        rest = "It has a second part with quite enough words to be a document of its own."
        write_module(
            tmp_path / "one.py", a=f"Return the first of all things.\n\n{rest}", b=f"f(x) -> y of it all\n\n{rest} B"
        )
        write_module(
            tmp_path / "two" / "__init__.py",
            c=f"Return the other of all things.\n\n{rest.upper()}", d=f"Return the first of all things.\n\n{rest} D",
        )  # fmt: skip
        write_module(tmp_path / "test" / "three.py", e=f"Return the third of all things.\n\n{rest} E")
        documents, train, test = docstrings.build(tmp_path)
        assert [document.docid for document in documents] == ["one:a", "one:b", "two:d"]
        found = {query.query_text: query.positive_document_ids for query in (*train, *test)}
        assert found == {
            "Return the first of all things": ("one:a", "two:d"),
            "Return the other of all things": ("one:a",),
        }

    def test_a_file_that_is_no_python_has_an_address(self, tmp_path):
        (tmp_path / "bad.py").write_text('"""Fine."""\n\ndef f(:\n')
        with pytest.raises(DataError, match=r"bad\.py:3: cannot be parsed as Python"):
            docstrings.build(tmp_path)


def test_held_out_queries_share_neither_answer_nor_text():
    queries = [
        Query("1", "a", ("x",)), Query("2", "b", ("y", "z")), Query("3", "c", ("z",)), Query("4", "A", ("w",)),
        Query("5", "d", ("v",)),
    ]  # fmt: skip
    train, test = hold_out(queries, lambda query: query.query_id in "345")
    assert [query.query_id for query in train] == ["1", "2"]
    assert [query.query_id for query in test] == ["5"]  # 3 shares z with 2, and 4 has the text of 1


class TestCompare:
    def test_rank(self):
        assert rank({"a": 1, "b": 0}, [("b", 3.0), ("c", 2.0), ("a", 1.0)]) == 3
        assert rank({"a": 1}, [("b", 3.0)]) == math.inf

    def test_examples_are_evenly_spaced(self):
        queries = [Query(str(number), "q") for number in range(100)]
        assert [query.query_id for query in evenly(queries, 4)] == ["12", "37", "62", "87"]
        assert evenly(queries[:2], 4) == queries[:2]
        assert evenly([], 4) == []

    def test_queries_are_counted_and_shown_by_kind(self, tmp_path):
        rows = [{"docid": f"d{n}", "document_text": f"text {n}"} for n in range(4)]
        (tmp_path / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (tmp_path / "test.jsonl").write_text("".join(
            json.dumps({"query_id": f"q{n}", "query_text": f"query {n}"}) + "\n" for n in range(3)
        ))  # fmt: skip
        (tmp_path / "qrels.tsv").write_text("query_id\tdocid\tscore\n" + "".join(f"q{n}\td{n}\t1\n" for n in range(3)))
        (tmp_path / "before.tsv").write_text("q0\td1\t2\nq0\td0\t1\nq1\td1\t2\nq2\td3\t1\n")
        (tmp_path / "after.tsv").write_text("q0\td0\t2\nq0\td1\t1\nq1\td0\t2\nq1\td1\t1\nq2\td3\t1\n")
        found = compare(tmp_path, "test", *(tmp_path / name for name in ("qrels.tsv", "before.tsv", "after.tsv")))
        assert found.counts == {"better": 1, "worse": 1, "unchanged": 1}
        (better,), (worse,), (same,) = (found.examples[kind] for kind in ("better", "worse", "unchanged"))
        assert (better.query, better.ranks, worse.ranks) == ("query 0", (2, 1), (1, 2))
        assert [(hit.document.docid, hit.right) for hit in better.hits[1]] == [("d0", True), ("d1", False)]
        assert same.ranks == (math.inf, math.inf)
        assert same.answer.document_text == "text 2"


class TestData:
    def test_a_dataset_is_linked_and_left_alone(self, tiny_data, tmp_path):
        before = {path.name for path in tiny_data.iterdir()}
        prepared = prepare(Options(data=tiny_data, output=tmp_path), started())
        assert (prepared.test, prepared.title) == ("test", tiny_data.name)
        assert Dataset.open(prepared.path).fingerprint("train") == Dataset.open(tiny_data).fingerprint("train")
        assert len(read_qrels(prepared.qrels)) == 8
        assert {path.name for path in tiny_data.iterdir()} - before <= {".teva"}

    def test_a_part_is_held_out_where_there_is_no_test(self, tiny_data, tmp_path):
        source = tmp_path / "source"
        source.mkdir()
        for name in ("corpus.jsonl", "train.jsonl"):
            (source / name).write_bytes((tiny_data / name).read_bytes())
        prepared = prepare(Options(data=source, output=tmp_path / "run", held_out=0.3), started())
        dataset = Dataset.open(prepared.path)
        train, test = list(dataset.queries("train")), list(dataset.queries("test"))
        assert len(train) > 15
        assert len(test) > 2
        answers = [{docid for query in side for docid in query.positive_document_ids} for side in (train, test)]
        assert not answers[0] & answers[1]
        assert read_qrels(prepared.qrels) == {q.query_id: dict.fromkeys(q.positive_document_ids, 1) for q in test}

    def test_another_source_in_the_same_output_is_refused(self, tiny_data, tmp_path):
        prepare(Options(data=tiny_data, output=tmp_path), started())
        pairs = write_pairs(tmp_path / "pairs.csv")
        with pytest.raises(DataError, match=r"made from something else.*--overwrite"):
            prepare(Options(data=pairs, output=tmp_path), started())
        prepared = prepare(Options(data=pairs, output=tmp_path, overwrite=True), started())
        assert len(Dataset.open(prepared.path).corpus) == 40

    def test_what_is_no_data_is_named(self, tmp_path, capsys):
        assert main(["--data", str(tmp_path / "none.csv"), "--output", str(tmp_path / "run")]) == 1
        assert "none.csv: no such data; expected a directory, or a CSV, TSV or JSONL file" in capsys.readouterr().err

    def test_a_dataset_without_train_is_refused(self, tiny_data, tmp_path):
        (tmp_path / "corpus.jsonl").write_bytes((tiny_data / "corpus.jsonl").read_bytes())
        with pytest.raises(DataError, match=r"no split to train on"):
            prepare(Options(data=tmp_path, output=tmp_path / "run"), started())


@pytest.fixture(scope="module")
def run(tiny_data, tiny_model, tmp_path_factory):
    """The arguments and the printed text of a first start."""
    output = tmp_path_factory.mktemp("quickstart") / "run"
    words = ["--data", tiny_data, "--model", tiny_model, "--output", output, "--steps", 6, "--batch-size", 8]
    arguments = [*map(str, words), "--learning-rate", "1e-3", "--no-require-gain"]
    command = [sys.executable, "-m", "examples.quickstart", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return output, arguments, done.stdout


class TestWholeRun:
    def test_the_table_is_what_the_run_files_score(self, run):
        output, _, printed = run
        noted = json.loads((output / "scores.json").read_text())
        relevant = read_qrels(output / "data" / "qrels" / "test.tsv")
        for column, side in enumerate(("before", "after")):
            ranks = [rank(relevant[query_id], found) for query_id, found in read_run(output / side / "run.tsv").items()]
            expected = sum(1 / place if place <= 10 else 0 for place in ranks) / len(relevant)
            row = next(line.split() for line in printed.splitlines() if line.startswith("RR@10 "))
            assert row[1 + column] == f"{expected:.4f}"
            assert noted[side]["mean"]["RR@10"] == pytest.approx(expected)

    def test_it_leaves_artifact_run_report_and_picture(self, run):
        output, _, printed = run
        for path in ("report.html", "after/run.tsv", "train/artifact", "train/loss.png", "recipe.yaml"):
            assert (output / path).exists()
            assert str(output / path) in printed

    def test_negatives_are_the_models_own_and_no_answers(self, run):
        output, _, _ = run
        found = read_run(output / "before" / "train-run.tsv")
        for query in Dataset.open(output / "data").queries("train-mined"):
            assert len(query.negative_document_ids) == 1
            assert set(query.negative_document_ids) <= {docid for docid, _ in found[query.query_id]}
            assert not set(query.negative_document_ids) & set(query.positive_document_ids)

    def test_the_commands_shown_do_the_same(self, run):
        output, _, printed = run
        from teva_data.cli import main as data
        from teva_eval.cli import main as evaluation
        from teva_infer.cli import main as infer
        from teva_torch.cli import main as torch

        programs = {"teva-data": data, "teva-infer": infer, "teva-eval": evaluation, "teva-torch": torch}
        lines = [line.removeprefix("  $ ") for line in printed.splitlines() if line.startswith("  $ ")]
        before = {name: checksum(output / name) for name in RESULTS}
        # Without the results, so that the commands have to make them.
        for name in RESULTS:
            (output / name).unlink()
        for line in lines:
            program, *words = shlex.split(line)
            assert programs[program](words) == 0, line
        assert {line.split()[0] for line in lines} == programs.keys()
        assert {name: checksum(output / name) for name in RESULTS} == before

    def test_a_second_start_reuses_what_is_there(self, run, capsys):
        output, arguments, printed = run
        kept = {path: (path.stat().st_mtime_ns, checksum(path)) for path in sorted(output.rglob("*.arrow"))}
        kept = {path: noted for path, noted in kept.items() if ".teva" not in path.parts}
        weights = checksum(output / "train" / "artifact" / "model.safetensors")
        assert main(arguments) == 0
        assert len(kept) == 5
        assert {path: (path.stat().st_mtime_ns, checksum(path)) for path in kept} == kept
        assert checksum(output / "train" / "artifact" / "model.safetensors") == weights
        assert table(capsys.readouterr().out) == table(printed)

    def test_another_recipe_in_the_same_output_is_refused(self, run, capsys):
        output, arguments, _ = run
        kept = everything_in(output)
        assert main([*arguments, "--seed", "7"]) == 1
        assert "train.seed was 42, is 7" in capsys.readouterr().err
        assert everything_in(output) == kept

    def test_status_1_where_nothing_is_gained(self, tmp_path, tiny_model, capsys):
        pairs = write_pairs(tmp_path / "pairs.csv")
        words = ["--data", pairs, "--model", tiny_model, "--output", tmp_path / "run", "--steps", 2, "--batch-size", 4]
        arguments = [*map(str, words), "--held-out", "0.3", "--learning-rate", "1e-30"]
        assert main(arguments) == 1
        assert "nDCG@10 has not risen" in capsys.readouterr().err
        assert main([*arguments, "--no-require-gain"]) == 0
        page = Page((tmp_path / "run" / "report.html").read_text(encoding="utf-8"))
        assert "what is <b>" in page.text
        assert "</b> & no more?" in page.text
        assert "<script>alert(1)</script>" in page.text
        assert not {"script", "link"} & page.tags
        assert page.outside == []

    def test_the_report_stands_alone_and_is_well_formed(self, run):
        output, _, printed = run
        page = Page((output / "report.html").read_text(encoding="utf-8"))
        assert page.outside == []
        assert page.open == []
        assert not {"script", "link", "iframe"} & page.tags
        for line in table(printed):
            name, before, after, _ = line.split()
            assert name in page.text
            assert before in page.text
            assert after in page.text


def everything_in(output: Path) -> dict[Path, tuple[int, str]]:
    """When each file was written and what it holds; locks and what only saves work (``.teva``) left out."""
    files = [path for path in sorted(output.rglob("*")) if path.is_file() and ".teva" not in path.parts]
    return {path: (path.stat().st_mtime_ns, checksum(path)) for path in files}


RESULTS = ("before/run.tsv", "before/train-run.tsv", "data/train-mined.jsonl", "after/run.tsv")


class Page(HTMLParser):
    """Tags, text, what is fetched from elsewhere, and tags that were not closed."""

    VOID = frozenset({"meta", "img", "br", "link"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.open: list[str] = []
        self.outside: list[str] = []
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        fetched = [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data")]
        self.outside += [value for value in fetched if not value.startswith("data:")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "style":
            assert "url(" not in data
            assert "@import" not in data
        self.text += data


def started() -> Tour:
    tour = Tour(1)
    tour.part("Data").__enter__()
    return tour


def table(printed: str) -> list[str]:
    return [
        line
        for line in printed.splitlines()
        if line.startswith(("nDCG@10 ", "R@100 ", "RR@10 ")) and line.count(".") == 3
    ]


def write_module(path: Path, **functions: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"def {name}():\n    {text!r}\n\n" for name, text in functions.items()))


def write_pairs(path: Path) -> Path:
    """40 questions and passages with markup in all of them."""
    words = ["red", "blue", "green", "fast", "slow", "river", "mountain", "city", "engine", "water"]
    pairs = [f"{words[n % 10]} {words[n // 10]}" for n in range(40)]
    rows = [(f"what is <b>{pair}</b> & no more?", f"the {pair} <script>alert(1)</script> of {pair}") for pair in pairs]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("question", "passage"))
        writer.writerows(rows)
    return path
