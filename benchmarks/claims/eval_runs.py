"""Claims of teva-eval's runs: BM25's rows, speed, error rates of comparisons, repetition, bad input."""

from __future__ import annotations

import json
import logging
import shutil
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from . import Context, Result, claim
from .eval import _quiet

# nDCG@10 and R@100 of the test split, from the README of the collections.
BM25 = {
    "scifact": (0.6767, 0.9287), "medquad": (0.6150, 0.9493), "tldr": (0.7714, 0.9895), "pycode": (0.4773, 0.8410),
    "wordnet": (0.2100, 0.7187), "squad": (0.8233, 0.9788), "cmrc2018": (0.9843, None),
}  # fmt: skip


@claim(
    "eval",
    name="bm25_rows",
    target="the row of BM25 is within 0.01 of the collections' own nDCG@10 and R@100 (k1 0.9, b 0.4, Porter)",
    peer="the README of the collections, measured with Lucene's formula by other code; here {bm25s}",
    needs=("data",),
)
def bm25_rows(context: Context) -> Result:
    """`teva-eval run --bm25` on the text collections, converted by it."""
    from teva_eval import Settings, Task, evaluate
    from teva_eval.bm25 import BM25System

    names = ["scifact", "medquad"] if context.quick else list(BM25)
    figures: dict[str, Any] = {}
    worst = 0.0
    for name in names:
        task = Task(name=name, measures=("nDCG@10", "R@100"))
        (record,) = evaluate(BM25System(), [task], context.work, data=context.data, settings=Settings(depth=100))
        for measure, expected in zip(("nDCG@10", "R@100"), BM25[name], strict=True):
            if expected is not None:
                found = record["scores"][measure]
                figures[f"{name} {measure}"] = f"{found:.4f} ({expected:.4f})"
                worst = max(worst, abs(found - expected))
        shutil.rmtree(context.work / "data" / name)
    figures["largest difference"] = worst
    return Result(figures, worst <= 0.01, "ours (theirs)", {"rows": figures})


WORST = "worst case"


def synthetic(
    queries: int, depth: int, seed: int, near: float
) -> tuple[dict[str, dict[str, int]], dict[str, dict[str, float]]]:
    """Judgements and a run as retrievers leave them: three relevant documents, found at geometric ranks (``near``)."""
    import numpy as np

    generator = np.random.default_rng(seed)
    pool = [f"doc{number}" for number in range(200_000)]
    qrels, run = {}, {}
    for number in range(queries):
        found = generator.choice(len(pool), depth, replace=False)
        scores = np.sort(generator.standard_normal(depth).astype(np.float32))[::-1].astype(float)
        run[f"q{number}"] = dict(zip([pool[place] for place in found], scores.tolist(), strict=True))
        ranks = np.minimum(generator.geometric(near, 2), depth) - 1
        judged = {pool[found[rank]]: 1 for rank in ranks}
        judged[pool[generator.integers(len(pool))]] = 1
        qrels[f"q{number}"] = judged
    return qrels, run


@claim(
    "eval",
    name="scoring_speed",
    target="7,000 queries x 1,000 documents are scored no slower than by pytrec_eval called alone",
    peer="{pytrec-eval-terrier}, RelevanceEvaluator on the same dictionaries",
)
def scoring_speed(context: Context) -> Result:
    """The default measures, checks included, and deep ones; interleaved; the median of the ratios.

    The third row is the worst case, in which nothing of a run can be left out: relevant documents at random ranks. It
    is shown, and not part of the target.
    """
    import pytrec_eval

    from teva_eval import DEFAULT_MEASURES, score

    figures: dict[str, Any] = {}
    ratios: dict[str, list[float]] = {}
    deep = ("nDCG@10", "R@1000", "RR", "AP"), {"ndcg_cut_10", "recall_1000", "recip_rank", "map"}
    for label, (ours, names) in {
        "default measures": (DEFAULT_MEASURES, {"ndcg_cut_10", "recall_100", "recip_rank", "map_cut_100"}),
        "deep measures": deep, WORST: deep,
    }.items():  # fmt: skip
        qrels, run = synthetic(700 if context.quick else 7000, 1000, context.seed, 0.02 if label != WORST else 0.001)
        alone, whole = [], []
        for _ in range(2 if context.quick else 3):
            start = time.perf_counter()
            pytrec_eval.RelevanceEvaluator(qrels, names).evaluate(run)
            alone.append(time.perf_counter() - start)
            start = time.perf_counter()
            score(qrels, run, ours)
            whole.append(time.perf_counter() - start)
        ratios[label] = [mine / theirs for mine, theirs in zip(whole, alone, strict=True)]
        figures |= {f"{label}: pytrec_eval, s": min(alone), f"{label}: teva-eval, s": min(whole),
                    f"{label}: ratio": statistics.median(ratios[label])}  # fmt: skip
    passed = all(statistics.median(each) <= 1.0 for label, each in ratios.items() if label != WORST)
    return Result(figures, passed, "from dictionaries in memory; ratio below 1 is faster", {"ratios": ratios})


@claim(
    "eval",
    name="compare_error_rates",
    target="at level 0.05: a planted null is called a difference in at most 8.7 % of 200 simulations (0.05 + 2.4 "
    "standard errors), a planted difference in at least 95 %, and over 13 tasks of no difference Holm errs as seldom",
    peer="",
)
def compare_error_rates(context: Context) -> Result:
    """Values of 100 queries as nDCG has them (many 0 and 1), two systems that are correlated as real ones are."""
    import numpy as np

    from teva_eval.significance import holm, paired

    simulations, resamples = (40, 500) if context.quick else (200, 2000)
    generator = np.random.default_rng(context.seed)

    def systems(shift: float) -> tuple[list[float], list[float]]:
        hardness = generator.normal(0.5, 0.35, 100)
        one, other = (np.clip(hardness + generator.normal(moved, 0.15, 100), 0, 1) for moved in (0.0, shift))
        return one.tolist(), other.tolist()

    false = power = covered = family = 0
    for number in range(simulations):
        null = paired(*systems(0.0), resamples=resamples, seed=number)
        real = paired(*systems(0.1), resamples=resamples, seed=number)
        false += null.p < 0.05
        power += real.p < 0.05
        covered += null.low <= 0 <= null.high
        tasks = [paired(*systems(0.0), resamples=resamples, seed=number).p for _ in range(13)]
        family += min(holm(tasks)) < 0.05
    rates = {
        "null called a difference": false / simulations, "difference found": power / simulations,
        "interval holds 0 under the null": covered / simulations,
        "any of 13 nulls called one, Holm": family / simulations,
        "simulations": simulations,
    }  # fmt: skip
    most = 0.05 + 2.4 * (0.05 * 0.95 / simulations) ** 0.5
    passed = (
        rates["null called a difference"] <= most and rates["any of 13 nulls called one, Holm"] <= most
        and rates["difference found"] >= 0.95 and rates["interval holds 0 under the null"] >= 1 - most - 0.02
    )  # fmt: skip
    return Result(rates, passed, f"100 queries, {resamples} resamples each")


@claim(
    "eval",
    name="rerun_names_differences",
    target="rerun of a record is identical; after one changed prompt, title policy, document, query or judgement it "
    "names that change and nothing that did not happen",
    peer="",
    needs=("data",),
)
def rerun_names_differences(context: Context) -> Result:
    """MiniLM with its sentence-transformers files and BM25, on a small part of SciFact."""
    from teva_eval import Task, evaluate, rerun
    from teva_eval.bm25 import BM25System
    from teva_eval.systems import load_system

    from .eval_mteb import local_task
    from .real_run import minilm

    data = _small(local_task(context.data / "scifact", 12).dataset["default"]["test"], context.work / "in" / "small")
    model = context.work / "model"
    shutil.copytree(minilm(), model)
    task = Task(name="small")
    out = context.work / "out"
    dense = load_system("dense", model=model, name="minilm", device="cpu")
    evaluate([BM25System(), dense], [task], out, data=data.parent)
    dense_result, bm25_result = out / "minilm" / "small", out / "bm25" / "small"
    found = {"nothing, BM25": rerun(bm25_result).differences, "nothing, MiniLM": rerun(dense_result).differences}
    expected = {"nothing, BM25": (), "nothing, MiniLM": ()}

    prompts = model / "config_sentence_transformers.json"
    before = prompts.read_text()
    prompts.write_text(json.dumps({**json.loads(before), "prompts": {"query": "query: ", "document": ""}}))
    found["the model's prompt"] = rerun(dense_result).differences
    prompts.write_text(before)
    expected["the model's prompt"] = ("system.prompts.query: '' there, 'query: ' now",)

    for name, change, line in (
        ("a document", _change_line(data / "corpus.jsonl", 7, "document_text", "another text"), "data: document 7 of"),
        ("a query", _change_line(data / "test.jsonl", 3, "query_text", "another question"), "data: query 3 of"),
        ("a judgement", _change_grade(data / "qrels" / "test.tsv"), "data: judged query 1 of"),
    ):
        with change:
            found[name] = rerun(bm25_result).differences
        expected[name] = (line,)
    record = json.loads((bm25_result / "result.json").read_text())
    del record["seal"]  # it is changed on purpose
    record["task"]["title"] = record["settings"]["title"] = "drop"
    other = out / "bm25" / "as if titles had been dropped"
    shutil.copytree(bm25_result, other)
    (other / "result.json").write_text(json.dumps(record))
    found["the title policy"] = tuple(_against(rerun(other).record, bm25_result))
    expected["the title policy"] = ("task.title: 'join' there, 'drop' now",)
    wrong = {name: lines for name, lines in found.items() if not _as_expected(name, lines, expected[name])}
    figures = {"changes tried": len(found) - 2, "named": len(found) - 2 - len(wrong), "wrong": len(wrong)}
    return Result(figures, not wrong, "; ".join(wrong), {"differences": {k: list(v) for k, v in found.items()}})


_EFFECTS = ("scores.", "variants.", "counts.", "run.")
# What else one change moves: a fingerprint of the same file.
_ALSO = {
    "the model's prompt": ("system.fingerprint",), "a document": ("data.corpus_fingerprint",),
    "a query": ("data.queries_fingerprint",), "a judgement": (),
    "the title policy": ("settings.title", "data.", "data: document"),
}  # fmt: skip


def _as_expected(name: str, lines: tuple[str, ...], expected: tuple[str, ...]) -> bool:
    if not expected:
        return not lines
    causes = [line for line in lines if not line.startswith(_EFFECTS)]
    named = all(any(line.startswith(start) for line in causes) for start in expected)
    return named and all(line.startswith((*expected, *_ALSO[name])) for line in causes)


def _against(record: Mapping[str, Any], result: Path) -> list[str]:
    from teva_eval.records import differences, read_record

    return differences(read_record(result), record)


def _small(task: Mapping[str, Any], place: Path) -> Path:
    from teva_data.runs import write_qrels

    (place / "qrels").mkdir(parents=True)
    judged = {docid for grades in task["relevant_docs"].values() for docid in grades}
    corpus = [each for number, each in enumerate(task["corpus"]) if number % 5 == 0 or each["id"] in judged]
    rows = [{"docid": each["id"], "title": each["title"], "document_text": each["text"]} for each in corpus]
    (place / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    rows = [{"query_id": each["id"], "query_text": each["text"]} for each in task["queries"]]
    (place / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_qrels(place / "qrels" / "test.tsv", task["relevant_docs"])
    return place


class _Changed:
    """A file with other content while a `with` block runs."""

    def __init__(self, path: Path, content: str) -> None:
        self.path, self.content, self.before = path, content, path.read_text()

    def __enter__(self) -> None:
        self.path.write_text(self.content)

    def __exit__(self, *_: object) -> None:
        self.path.write_text(self.before)


def _change_line(path: Path, number: int, field: str, value: str) -> _Changed:
    lines = path.read_text().splitlines()
    lines[number - 1] = json.dumps({**json.loads(lines[number - 1]), field: value})
    return _Changed(path, "\n".join(lines) + "\n")


def _change_grade(path: Path) -> _Changed:
    lines = path.read_text().splitlines()
    lines[1] = lines[1].rsplit("\t", 1)[0] + "\t2"
    return _Changed(path, "\n".join(lines) + "\n")


@claim(
    "eval",
    name="bad_input_addressed",
    target="every bad run, qrels or task is refused or counted with its address; none is scored in silence",
    peer="",
)
def bad_input_addressed(context: Context) -> Result:
    """Unknown query, duplicate document, NaN, wrong columns, empty files, qrels without a relevant document, more."""
    from teva_data.errors import TevaError
    from teva_eval import score

    work, good = context.work, "q1 0 a 1\nq2 0 a 0\nq2 0 b 1\n"
    cases = {
        "NaN score": ("q1\ta\t1\nq1\tb\tnan\n", good, "run:2: "),
        "infinite score": ("q1\ta\tinf\n", good, "run:1: "),
        "duplicate document": ("q1\ta\t1\nq1\tb\t1\nq1\ta\t0\n", good, "run:3: "),
        "wrong columns": ("q1\ta\t1\nq1\tb\n", good, "run:2: "),
        "score that is no number": ("q1\ta\thigh\n", good, "run:1: "),
        "empty run": ("", good, "run:1: "),
        "empty qrels": ("q1\ta\t1\n", "", "qrels:1: "),
        "grade that is no integer": ("q1\ta\t1\n", "q1 0 a yes\n", "qrels:1: "),
        "duplicate judgement": ("q1\ta\t1\n", "q1 0 a 1\nq1 0 a 2\n", "qrels:2: "),
        "no query in common": ("x1\ta\t1\n", good, "no query in common"),
    }  # fmt: skip
    told: dict[str, str] = {}
    for name, (run, qrels, words) in cases.items():
        (work / "run").write_text(run)
        (work / "qrels").write_text(qrels)
        try:
            score(work / "qrels", work / "run")
            told[name] = "scored in silence"
        except TevaError as error:
            told[name] = "ok" if words in str(error) else f"without its address: {error}"
    counted = {
        "unknown query": ("q1\ta\t1\nq9\ta\t1\n", good, "1 queries are not judged (e.g. 'q9')"),
        "query without results": ("q1\ta\t1\n", good, "1 of 2 judged queries have no results (e.g. 'q2')"),
        "no relevant document": ("q1\ta\t1\nq2\ta\t1\n", "q1 0 a 1\nq2 0 a 0\n", "1 judged queries have no relevant"),
        "no document judged": ("q1\tz\t1\nq2\ty\t1\n", good, "none of its documents is judged"),
    }  # fmt: skip
    for name, (run, qrels, words) in counted.items():
        (work / "run").write_text(run)
        (work / "qrels").write_text(qrels)
        messages = list(_warnings(lambda: score(work / "qrels", work / "run")))
        told[name] = "ok" if any(words in message for message in messages) else f"not told: {messages}"
    wrong = {name: text for name, text in told.items() if text != "ok"}
    return Result({"cases": len(told), "told": len(told) - len(wrong)}, not wrong, str(wrong or ""), {"told": told})


def _warnings(work: Callable[[], object]) -> Iterator[str]:
    logger, kept = logging.getLogger("teva_eval"), []
    handler = logging.Handler()
    handler.emit = lambda record: kept.append(record.getMessage())  # type: ignore[method-assign]
    logger.addHandler(handler)
    propagate, logger.propagate = logger.propagate, False
    try:
        work()
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate
    yield from kept


@claim(
    "eval",
    name="equal_to_peers",
    target="pytrec_eval and ir_measures give the same value for every query and measure on 300 random runs with ties, "
    "missing queries, graded and negative judgements: 0 differ (a query judged negative alone counts 0, by our rule)",
    peer="{pytrec-eval-terrier}, {ir-measures}",
)
def equal_to_peers(context: Context) -> Result:
    """Each query and measure by three toolkits; those that pytrec_eval cannot take are left to the documented rule."""
    import ir_measures
    import numpy as np
    import pytrec_eval

    from teva_eval import score
    from teva_eval.measures import parse_measure

    names = ["nDCG@10", "nDCG", "R@100", "RR", "AP", "AP@100", "P@5", "Success@1", "Rprec", "Bpref", "infAP", "SetP"]
    shared = [name for name in names if name not in ("Bpref", "infAP", "RR")]
    theirs = {ir_measures.parse_measure(name): name for name in shared}
    generator = np.random.default_rng(context.seed)
    values = differ = ruled = 0
    for _ in range(30 if context.quick else 300):
        qrels, run = _random_run(generator)
        taken = {query_id: judged for query_id, judged in qrels.items() if max(judged.values()) >= 0}
        if not taken.keys() & run.keys():
            continue
        with _quiet():
            ours = score(qrels, run, names).per_query
        ruled += len(names) * (len(qrels) - len(taken))
        differ += sum(ours[name][query_id] != 0 for query_id in qrels.keys() - taken.keys() for name in names)
        evaluator = pytrec_eval.RelevanceEvaluator(taken, {parse_measure(name).trec_name for name in names})
        alone = evaluator.evaluate(run)
        for query_id in taken:
            for name in names:
                values += 1
                differ += ours[name][query_id] != alone.get(query_id, {}).get(parse_measure(name).trec_name, 0.0)
        for value in ir_measures.pytrec_eval.iter_calc(list(theirs), taken, run):
            values += 1
            differ += ours[theirs[value.measure]][value.query_id] != value.value
    figures = {"values compared": values, "of them by our rule": ruled, "differ": differ}
    return Result(figures, differ == 0 and values > 0)


def _random_run(generator: Any) -> tuple[dict[str, dict[str, int]], dict[str, dict[str, float]]]:
    docids = [f"d{number}" for number in range(120)]
    qrels: dict[str, dict[str, int]] = {}
    run: dict[str, dict[str, float]] = {}
    for number in range(8):
        judged = generator.choice(docids, generator.integers(1, 30), replace=False).tolist()
        grades = generator.choice([-1, 0, 1, 2, 3], len(judged), p=[0.3, 0.3, 0.2, 0.1, 0.1])
        qrels[f"q{number}"] = dict(zip(judged, grades.tolist(), strict=True))
        if generator.random() > 0.2:
            found = generator.choice(docids, generator.integers(1, 120), replace=False).tolist()
            scores = generator.integers(0, 12, len(found)) / 4
            run[f"q{number}"] = dict(zip(found, scores.tolist(), strict=True))
    return qrels, run
