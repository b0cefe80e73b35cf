"""Writes results in MTEB's layout: ``{org__model}/{revision}/{Task}.json`` and ``model_meta.json`` beside it.

MTEB itself is not needed for it. Values are computed again from the recorded runs, with MTEB's measures (k of 1, 3, 5,
10, 20, 100, 1000); MTEB's nAUC values of abstention are not among them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from teva_data.dataset import Dataset
from teva_data.errors import DataError, TevaError
from teva_data.files import write_json
from teva_data.runs import read_run

from .records import find_records
from .scoring import score

CUTOFFS = (1, 3, 5, 10, 20, 100, 1000)
# Our family of each of MTEB's.
FAMILIES = {"ndcg": "nDCG", "map": "AP", "recall": "R", "precision": "P", "mrr": "RR", "hit_rate": "Success"}
VERSION = "2.26.24"  # of MTEB, whose layout this is
_LANGUAGES = {
    "ar": "ara-Arab", "bn": "ben-Beng", "de": "deu-Latn", "en": "eng-Latn", "es": "spa-Latn", "fa": "fas-Arab",
    "fi": "fin-Latn", "fr": "fra-Latn", "hi": "hin-Deva", "id": "ind-Latn", "it": "ita-Latn", "ja": "jpn-Jpan",
    "ko": "kor-Kore", "pt": "por-Latn", "ru": "rus-Cyrl", "sw": "swa-Latn", "te": "tel-Telu", "th": "tha-Thai",
    "yo": "yor-Latn", "zh": "zho-Hans",
}  # fmt: skip


def write_mteb(directories: Iterable[str | Path], output: str | Path) -> list[Path]:
    """Write all results below some directories that are of tasks that MTEB has.

    Args:
        directories: where results lie.
        output: MTEB's directory ``results``.

    Returns:
        the files of tasks.

    Raises:
        DataError: no results; a run or the data of one are gone.
        TevaError: none of the tasks is MTEB's.
    """
    tasks: dict[tuple[str, str], list[tuple[Path, dict[str, Any]]]] = {}
    for path, record in find_records(directories):
        if record["task"]["mteb"]:
            tasks.setdefault((record["system"]["name"], record["task"]["mteb"]), []).append((path.parent, record))
    if not tasks:
        raise TevaError(
            "none of these results is of a task that MTEB has. `teva-eval run --task NAME` makes one (`teva-eval "
            "benchmarks` lists them); --dataset is data of your own"
        )
    written = []
    for (_, task), found in tasks.items():
        first = found[0][1]
        name, revision = model_name(first["system"])
        place = Path(output) / name.replace("/", "__") / revision
        entries: dict[str, list[dict[str, Any]]] = {}
        for directory, record in found:
            entries.setdefault(record["task"]["split"], []).append(_entry(directory, record))
        content = {
            "dataset_revision": first["task"]["revision"], "task_name": task, "mteb_version": VERSION,
            "scores": entries, "evaluation_time": sum(record["seconds"] for _, record in found),
            "kg_co2_emissions": None, "date": max(record["written"] for _, record in found),
        }  # fmt: skip
        write_json(place / "model_meta.json", _meta(first["system"], name, revision))
        write_json(place / f"{task}.json", content)
        written.append(place / f"{task}.json")
    return written


def mteb_scores(means: Mapping[str, float]) -> dict[str, float]:
    """Means by our names as MTEB names them, rounded to its five decimals."""
    named = {f"{theirs}_at_{k}": round(means[f"{ours}@{k}"], 5) for theirs, ours in FAMILIES.items() for k in CUTOFFS}
    return {**named, "accuracy": named["recall_at_1"]}


def mteb_measures() -> list[str]:
    """Our names of MTEB's measures."""
    return [f"{family}@{k}" for family in FAMILIES.values() for k in CUTOFFS]


def model_name(system: Mapping[str, Any]) -> tuple[str, str]:
    """``org/model`` and a revision, as MTEB's directories want them; of a local model, its name and fingerprint."""
    model = str(system.get("model") or "")
    if system.get("revision") and model.count("/") == 1:
        return model, str(system["revision"])
    marks = system.get("fingerprint")
    mark = marks.get("document") if isinstance(marks, Mapping) else marks
    return f"teva/{system['name']}".replace("__", "-"), str(mark or "no_revision_available")


def _entry(directory: Path, record: dict[str, Any]) -> dict[str, Any]:
    task, place = record["task"], record["request"].get("dataset")
    if not place or not Path(place).is_dir():
        raise DataError("the data of this result are gone", file=directory, field="request.dataset", found=place,
                        hint="Run the task again")  # fmt: skip
    run = directory / record["runs"][""]["file"]
    found = score(Dataset.open(place).qrels(task["split"]), read_run(run), mteb_measures(),
                  missing=record["settings"]["missing"], self_hits=record["settings"]["self_hits"])  # fmt: skip
    scores = mteb_scores(found.mean)
    main = {"nDCG@10": "ndcg_at_10", "nDCG@5": "ndcg_at_5", "RR@10": "ndcg_at_10"}.get(task["measures"][0])
    return {
        **scores, "main_score": scores[main or "ndcg_at_10"], "hf_subset": task["part"] or "default",
        "languages": [_LANGUAGES.get(code, code) for code in task["languages"]],
    }  # fmt: skip


def _meta(system: Mapping[str, Any], name: str, revision: str) -> dict[str, Any]:
    lengths = system.get("max_length")
    return {
        "name": name, "revision": revision, "release_date": None, "languages": None, "loader": None,
        "n_parameters": None, "memory_usage_mb": None, "embed_dim": system.get("dim"), "license": None,
        "max_tokens": max(lengths.values()) if isinstance(lengths, Mapping) else None, "open_weights": None,
        "public_training_code": None, "public_training_data": None, "framework": [], "reference": None,
        "similarity_fn_name": "cosine" if system.get("normalized") else None, "use_instructions": None,
        "training_datasets": None, "adapted_from": None, "superseded_by": None,
    }  # fmt: skip
