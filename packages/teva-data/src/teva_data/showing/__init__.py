"""One training example as the model will see it: prompts, title, text, where it is cut, its tokens, its media."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from teva_data.artifact import Artifact
from teva_data.dataset import Dataset
from teva_data.errors import DataError, RecipeError
from teva_data.layout import ROLES
from teva_data.pieces import Media, Piece
from teva_data.plan import BatchPlan
from teva_data.prompting import resolve_prompts, training_renderer
from teva_data.recipe import DatasetSection, Recipe
from teva_data.records import Document, Query, join_title
from teva_data.rendering import Renderer

from .pictures import Seen, seen
from .tokens import Tokens, tokens_of

Role = Literal["query", "positive", "negative"]
TITLE_POLICY = {
    "query": "prompt + query_text",
    "document": 'prompt + title + " " + document_text; without the space where one of the two is empty',
}


@dataclass(frozen=True)
class Rendered:
    """A query or a document as the model will see it.

    Attributes:
        role: ``query``, ``positive`` or ``negative``.
        identifier: query_id or docid.
        file: where it stands.
        line: its line there.
        prompt: what is put before it.
        prompt_from: who says so.
        text: the whole string, the prompt included.
        tokens: what the tokenizer makes of it; None without a model.
        pieces: texts and media in order, where it is not one text alone.
        score: a teacher's, where the row has it.
        seen: its pictures, clips and recordings as the model takes them.
    """

    role: Role
    identifier: str
    file: str
    line: int
    prompt: str
    prompt_from: str
    text: str
    tokens: Tokens | None = None
    pieces: Sequence[Piece] = ()
    score: float | None = None
    seen: Sequence[Seen] = ()


@dataclass(frozen=True)
class Example:
    """A query with documents.

    Attributes:
        source: of what: the split and the row, or the step.
        query: the query.
        documents: its positives and its negatives, as far as they are shown.
        left_out: positives and negatives that the row has besides.
    """

    source: str
    query: Rendered
    documents: list[Rendered]
    left_out: tuple[int, int]


def training_example(
    dataset: Dataset | str | Path,
    split: str | None = None,
    *,
    row: int | None = None,
    query_id: str | None = None,
    model: str | Path | None = None,
    recipe: Recipe | None = None,
    step: int | None = None,
    documents: int = 2,
) -> Example:
    """Render one query of a split with its documents, as training would.

    Args:
        dataset: the dataset, or its directory.
        split: whose query; None: the recipe's, else ``train``.
        row: which query, counted from 0; with ``step`` the place among this dataset's queries in the batch.
        query_id: which query, by its id; with ``step`` it must be in the batch.
        model: the model whose tokenizer, prompts and limit are shown (directory or hub id); without a model and a
            recipe nothing is cut and tokens are not shown.
        recipe: shows its model, prompts and limits.
        step: the positive and the negatives of this training step, counted from 0, in place of the lists; needs a
            recipe.
        documents: positives at most, and negatives at most; all of a step's are given.

    Raises:
        DataError: there is no such split, row or query; a listed document is unknown.
        RecipeError: arguments exclude each other, or the recipe does not hold the dataset.
        ArtifactError: the model cannot be read.
    """
    if row is not None and query_id is not None:
        raise RecipeError("row, query_id: found both; expected one of them")
    if recipe is not None and model is not None:
        raise RecipeError("recipe, model: found both; expected one of them, since a recipe names its model")
    if step is not None and (recipe is None or step < 0):
        raise RecipeError(f"step: found {step}; expected a number from 0 on, and a recipe, whose steps these are")
    if documents < 0:
        raise RecipeError(f"documents: found {documents}; expected a number from 0 on")
    if not isinstance(dataset, Dataset):
        dataset = Dataset.open(dataset)
    if recipe is not None:
        view = _of_recipe(dataset, split, recipe)
    else:
        view = _of_model(dataset, split or "train", None if model is None else Artifact.load(model))
    return view.listed(row, query_id, documents) if step is None else view.stepped(step, row, query_id)


@dataclass(frozen=True)
class _View:
    """How rows of one split are rendered.

    Attributes:
        dataset: the dataset.
        split: the split.
        prompts: of each role the prompt and who says so.
        renderer: None without a model.
        limits: of each role the tokens at most.
        plan: of a recipe, and the number of its part that is this dataset.
    """

    dataset: Dataset
    split: str
    prompts: dict[str, tuple[str, str]]
    renderer: Renderer | None = None
    limits: dict[str, int] = dataclasses.field(default_factory=dict)
    plan: tuple[Recipe, list[Dataset], int] | None = None

    def listed(self, row: int | None, query_id: str | None, most: int) -> Example:
        """A query and the documents that its row lists."""
        queries = self.dataset.queries(self.split)
        if query_id is not None:
            row = int(queries.rows([query_id])[0])
            if row < 0:
                raise DataError("unknown query", file=queries.source, field="query_id", found=query_id,
                                expected=f"one of its {len(queries)} queries")  # fmt: skip
        row = row or 0
        if not 0 <= row < len(queries):
            raise DataError("no such row", file=queries.source, field="row", found=row,
                            expected=f"0 to {len(queries) - 1}")  # fmt: skip
        query = queries[row]
        lists: list[tuple[Role, tuple[str, ...], tuple[float, ...] | None]] = [
            ("positive", query.positive_document_ids, query.positive_scores),
            ("negative", query.negative_document_ids, query.negative_scores),
        ]
        shown = []
        for role, docids, scores in lists:
            for at, docid in enumerate(docids[:most]):
                shown.append(self._document(docid, role, None if scores is None else scores[at]))
        left_out = (max(len(lists[0][1]) - most, 0), max(len(lists[1][1]) - most, 0))
        return Example(f"row {row} of the split {self.split!r}", self._query(query, row), shown, left_out)

    def stepped(self, step: int, row: int | None, query_id: str | None) -> Example:
        """A query of a training step, and the documents that the step gives it."""
        assert self.plan is not None
        recipe, datasets, part = self.plan
        if (trained := recipe.data.listed()[part].split) != self.split:
            raise RecipeError(f"data.split: found {trained!r}; expected {self.split!r}, whose step is asked for")
        batch = BatchPlan.from_recipe(recipe, datasets).batch(step)
        own = [at for at, number in enumerate(batch.dataset.tolist()) if number == part]
        if query_id is not None:
            own, row = [at for at in own if batch.queries[at].query_id == query_id], 0
        row = row or 0
        if not 0 <= row < len(own):
            found = f"row {row}" if query_id is None else query_id
            ids = [query.query_id for query in batch.queries]
            raise DataError(
                f"not among this dataset's queries of step {step}", file=self.dataset.path, found=found,
                expected=f"0 to {len(own) - 1}" if own and query_id is None else f"one of {ids}",
            )  # fmt: skip
        query = batch.queries[own[row]]
        place = int(self.dataset.queries(self.split).rows([query.query_id])[0])
        columns, scores = batch.groups[own[row]].tolist(), batch.scores[own[row]].tolist()
        shown = [
            self._document(
                batch.documents[column].docid, "negative" if at else "positive", None if score != score else score
            )
            for at, (column, score) in enumerate(zip(columns, scores, strict=True))
            if column >= 0
        ]
        source = f"step {step}, query {row} of the {len(own)} of this dataset"
        return Example(source, self._query(self.dataset.queries(self.split)[place], place), shown, (0, 0))

    def _query(self, query: Query, row: int) -> Rendered:
        prompt = self.prompts["query"] if query.prompt is None else (query.prompt, "the row")
        file, line = self.dataset.queries(self.split).address(row)
        if self.renderer is None:
            text = prompt[0] + query.query_text
        else:
            text = self.renderer.query(query.query_text, prompt[0], query.pieces)
        tokens = self._tokens(text, "query")
        return Rendered(
            "query", query.query_id, file, line, *prompt, text, tokens, query.pieces, seen=self._seen(query.media)
        )

    def _document(self, docid: str, role: Role, score: float | None) -> Rendered:
        corpus, prompt = self.dataset.corpus, self.prompts["document"]
        (document,) = corpus.lookup([docid])
        file, line = corpus.address(int(corpus.rows([docid])[0]))
        text = self._text(document, prompt[0])
        tokens = self._tokens(text, "document")
        shown = self._seen(document.media)
        return Rendered(role, docid, file, line, *prompt, text, tokens, document.pieces, score, shown)

    def _text(self, document: Document, prompt: str) -> str:
        if self.renderer is None:
            return prompt + join_title(document.title, document.document_text)
        return self.renderer.document(document.document_text, document.title, prompt, document.pieces)

    def _seen(self, media: Sequence[Media]) -> list[Seen]:
        reader = None if self.renderer is None else self.renderer.pictures
        return [] if reader is None else [seen(reader, each) for each in media]

    def _tokens(self, text: str, role: str) -> Tokens | None:
        return None if self.renderer is None else tokens_of(self.renderer, text, self.limits[role])


def _of_model(dataset: Dataset, split: str, artifact: Artifact | None) -> _View:
    own = {role: (getattr(dataset.card.prompts, role), "dataset.yaml") for role in ROLES}
    other = {role: ("" if artifact is None else artifact.prompts[role], "the model") for role in ROLES}
    prompts: dict[str, Any] = {role: own[role] if own[role][0] is not None else other[role] for role in ROLES}
    if artifact is None:
        prompts = {role: (text, "nobody" if not text else source) for role, (text, source) in prompts.items()}
        return _View(dataset, split, prompts)
    limits = dict.fromkeys(ROLES, artifact.max_length)
    return _View(dataset, split, prompts, Renderer.from_artifact(artifact), limits)


def _of_recipe(dataset: Dataset, split: str | None, recipe: Recipe) -> _View:
    base = Artifact.load(recipe.model.name, revision=recipe.model.revision, role="query")
    part, entry = _entry(dataset, split, recipe)
    datasets = [dataset if at == part else Dataset.open(one.path) for at, one in enumerate(recipe.data.listed())]
    resolved = resolve_prompts(recipe, base, datasets)
    renderer = training_renderer(resolved, base)
    mine = resolved.data.listed()[part]
    prompts = {}
    for role in ROLES:
        key = f"{role}_prompt"
        text = getattr(mine, key) if getattr(mine, key) is not None else getattr(resolved.prompts, role)
        given = getattr(entry, key) is not None or getattr(recipe.prompts, role) is not None
        card = getattr(dataset.card.prompts, role) is not None
        prompts[role] = (text, "the recipe" if given else "dataset.yaml" if card else "the model")
    limits = {"query": recipe.model.query_max_length, "document": recipe.model.document_max_length}
    return _View(dataset, split or entry.split or "train", prompts, renderer, limits, (resolved, datasets, part))


def _entry(dataset: Dataset, split: str | None, recipe: Recipe) -> tuple[int, DatasetSection]:
    """The recipe's entry for a dataset; the only one it has is that for any."""
    entries = recipe.data.listed()
    here = [at for at, one in enumerate(entries) if Path(one.path).resolve() == dataset.path.resolve()]
    fitting = [at for at in here if split in (None, entries[at].split)] or here or [0] * (len(entries) == 1)
    if not fitting:
        raise RecipeError(
            f"data.datasets: found {', '.join(one.path for one in entries)}; expected {dataset.path} among them"
        )
    return fitting[0], entries[fitting[0]]
