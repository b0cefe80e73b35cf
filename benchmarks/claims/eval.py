"""Claims of teva-eval: its values are those that trec_eval prints, and teva_data's numpy measures agree with it."""

from __future__ import annotations

import contextlib
import gzip
import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import Context, Result, claim

if TYPE_CHECKING:
    from teva_eval import Measure


@dataclass(frozen=True)
class Reference:
    """An output of trec_eval, and the command line that it stands for."""

    output: str
    qrels: str
    run: str
    complete: bool = False  # -c: judged queries that the run lacks count 0
    level: int = 1  # -l
    depth: int | None = None  # -M

    def options(self) -> str:
        """The options in trec_eval's own words."""
        parts = ["-c"] * self.complete + [f"-l{self.level}"] * (self.level > 1)
        return " ".join(parts + ([f"-M{self.depth}"] if self.depth else [])) or "(none)"


def _nist() -> list[Reference]:
    # The command lines are those of `make quicktest` in trec_eval's Makefile.
    qrels, run, cut_run = "nist/qrels.test", "nist/results.test", "nist/results.trunc"
    return [
        Reference("nist/out.test", qrels, run),
        Reference("nist/out.test.a", qrels, run),
        Reference("nist/out.test.aq", qrels, run),
        # The comments change one docid, which no query retrieves: the same values, by a reader that takes comments.
        Reference("nist/out.test.aq", "nist/qrels.test.with-comments", run),
        Reference("nist/out.test.aqc", qrels, cut_run, complete=True),
        Reference("nist/out.test.aqcM", qrels, cut_run, complete=True, depth=100),
        Reference("nist/out.test.aql", "nist/qrels.rel_level", run, level=2),
        Reference("nist/out.test.meas_params", qrels, run),
    ]


def _bm25() -> list[Reference]:
    cases = []
    for name in ("cranfield", "cranfield.ties", "medquad", "scifact", "scifact.ties", "vaswani"):
        qrels, run = f"bm25/{name.removesuffix('.ties')}.qrels.gz", f"bm25/{name}.run.gz"
        cases.append(Reference(f"bm25/{name}.trec_eval.txt", qrels, run))
        cases.append(Reference(f"bm25/{name}.trec_eval.c.txt", qrels, run, complete=True))
        cases.append(Reference(f"bm25/{name}.trec_eval.q.txt.gz", qrels, run))
    return cases


def _graded() -> list[Reference]:
    qrels, run = "graded/qrels.dl19-passage.txt.gz", "graded/synthetic.run.gz"
    return [
        Reference("graded/synthetic.trec_eval.txt", qrels, run),
        Reference("graded/synthetic.trec_eval.l2.txt", qrels, run, level=2),
        Reference("graded/synthetic.trec_eval.q.txt.gz", qrels, run),
    ]


def _printed(path: Path) -> Iterator[tuple[str, str, str]]:
    """The rows of an output: what trec_eval calls the measure, the query (or ``all``), the printed value."""
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    for line in content.decode().splitlines():
        name, query_id, value = line.split("\t")
        yield name.strip(), query_id, value


def _compare(reference: Reference, directory: Path) -> dict[str, Any]:
    """Score as the reference did; how many printed values there are, and which differ."""
    from teva_eval import score
    from teva_eval.measures import trec_printed

    rows = list(_printed(directory / reference.output))
    known = {name: measure for name in {row[0] for row in rows} if (measure := trec_printed(name))}
    scores = score(
        directory / reference.qrels,
        directory / reference.run,
        [measure.name for measure in known.values()],
        missing="zero" if reference.complete else "drop",
        relevance_level=reference.level,
        depth=reference.depth,
    )
    compared, differ = Counter[str](), []
    for name, query_id, printed in rows:
        if name == "num_q":
            ours, kind = f"{scores.queries}", "counts"
        elif name in known:
            ours, kind = _ours(scores, known[name], query_id), "means" if query_id == "all" else "per query"
        else:
            continue
        compared[kind] += 1
        if ours != printed:
            differ.append([name, query_id, printed, ours])
    return {
        "output": reference.output, "qrels": reference.qrels, "run": reference.run, "options": reference.options(),
        "measures": sorted(measure.name for measure in known.values()), "compared": dict(compared), "differ": differ,
        "not_supported": sorted({row[0] for row in rows} - known.keys() - {"num_q", "runid"}),
    }  # fmt: skip


def _ours(scores: Any, measure: Measure, query_id: str) -> str:
    value = scores.mean[measure.name] if query_id == "all" else scores.per_query[measure.name].get(query_id)
    return "absent" if value is None else f"{value:.4f}"


@claim(
    "eval", "real_run",
    name="trec_eval_reference",
    target="teva-eval's values equal every digit that trec_eval printed: 0 of them differ",
    peer="trec_eval 9.0.8 and 10.0-rc3, printed outputs; computed through {pytrec-eval-terrier}",
    needs=("data",),
)  # fmt: skip
def trec_eval_reference(context: Context) -> Result:
    """Means and per-query values of NIST's test files, of real BM25 runs (ties, missing queries), of graded grades."""
    directory = context.data / "trec_eval"
    references = [*_nist(), *_bm25(), *_graded()]
    outputs = {str(path.relative_to(directory)) for path in _outputs(directory)}
    forgotten = sorted(outputs - {reference.output for reference in references})
    with _quiet():
        reports = [_compare(reference, directory) for reference in references]
    total = sum((Counter(report["compared"]) for report in reports), Counter[str]())
    differ = sum(len(report["differ"]) for report in reports)
    empty = [report["output"] for report in reports if not report["compared"]]
    figures = {
        "output files": len(outputs), "comparisons of a file": len(reports), "values compared": total.total(),
        "of them means": total["means"], "of them per query": total["per query"], "values that differ": differ,
        "files left out": len(forgotten),
    }  # fmt: skip
    passed = differ == 0 and not forgotten and not empty
    return Result(figures, passed, "to the 4 printed decimals", {"files": reports, "left_out": forgotten})


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without teva_eval's warnings about queries that are missing, as some are in the reference runs on purpose."""
    logger = logging.getLogger("teva_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _outputs(directory: Path) -> list[Path]:
    return [*directory.glob("nist/out.test*"), *directory.glob("*/*.trec_eval.*")]


@claim(
    "eval",
    name="numpy_measures",
    target="teva_data.measures differs from trec_eval's code by at most 1e-12, on real runs",
    peer="{pytrec-eval-terrier}",
    needs=("data",),
)
def numpy_measures(context: Context) -> Result:
    """The vectorised measures, query by query, on every reference run."""
    from teva_data.runs import read_qrels, read_run

    directory = context.data / "trec_eval"
    worst, values = 0.0, 0
    for reference in (*_nist(), *_bm25(), *_graded()):
        qrels, run = read_qrels(directory / reference.qrels), read_run(directory / reference.run)
        highest = max(grade for judged in qrels.values() for grade in judged.values())
        for level in range(1, highest + 1):
            with _quiet():
                difference, count = _largest_difference(qrels, run, level)
            worst, values = max(worst, difference), values + count
    return Result({"largest difference": worst, "values compared": values}, worst <= 1e-12)


def _largest_difference(qrels: Any, run: Any, level: int) -> tuple[float, int]:
    import numpy as np

    from teva_data import measures
    from teva_eval import score

    expected = score(qrels, run, _NUMPY_NAMES, relevance_level=level).per_query
    ranked = [[docid for docid, _ in run.get(query_id, [])] for query_id in qrels]
    gains, judged = measures.rank_gains(ranked, list(qrels.values()))
    found = {
        "nDCG": measures.ndcg(gains, judged), "nDCG@10": measures.ndcg(gains, judged, 10),
        "R@100": measures.recall(gains, judged, 100, level=level), "RR": measures.reciprocal_rank(gains, level=level),
        "RR@10": measures.reciprocal_rank(gains, 10, level=level),
        "AP": measures.average_precision(gains, judged, level=level),
        "AP@100": measures.average_precision(gains, judged, 100, level=level),
        "P@10": measures.precision(gains, 10, level=level), "Success@5": measures.success(gains, 5, level=level),
        "Rprec": measures.r_precision(gains, judged, level=level),
    }  # fmt: skip
    differences = [
        np.abs(found[name] - [expected[name][query_id] for query_id in qrels]).max() for name in _NUMPY_NAMES
    ]
    return float(max(differences)), len(_NUMPY_NAMES) * len(qrels)


_NUMPY_NAMES = ("nDCG", "nDCG@10", "R@100", "RR", "RR@10", "AP", "AP@100", "P@10", "Success@5", "Rprec")
