"""What is declared of a task and of a benchmark: all that decides a published number, and where it comes from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

Title = Literal["join", "drop"]
SelfHits = Literal["keep", "drop"]


@dataclass(frozen=True, kw_only=True)
class Task:
    """One collection with queries and judgements.

    Attributes:
        name: what it is called here, in files and tables.
        hub: the repository, ``owner/name``; empty for a dataset that lies on this machine alone.
        revision: the commit that is read; None: the newest.
        dataset: its name in :mod:`teva_data.datasets`, where it is declared there; that says how it is converted.
        layout: in which layout the repository is; see :data:`teva_data.conversion.LAYOUTS`.
        part: which of the repository's collections, e.g. a language.
        split: the split that is evaluated.
        measures: the main one first.
        title: ``join``: the document is title, a space, text; ``drop``: the text alone.
        self_hits: a hit whose docid is the query's id: kept, or dropped.
        query_prompt: the task's own; None: the model's.
        document_prompt: the task's own; None: the model's.
        instruction: the task in one sentence, for models that are told it (``run --instruct``).
        answers: a document is relevant where it holds one of the query's answers; judgements come from the texts.
        turned: the other direction of what the source holds: its documents ask, and its queries are found.
        languages: codes of queries and documents.
        documents: what documents are made of.
        group: tasks of one group count once in the benchmark's mean (CQADupStack).
        mteb: the name of MTEB's task.
        license: short name; ``unknown`` where none is stated.
        note: what was not verified, what is good to know.
    """

    name: str
    hub: str = ""
    revision: str | None = None
    dataset: str | None = None
    layout: str = "mteb"
    part: str | None = None
    split: str = "test"
    measures: tuple[str, ...] = ("nDCG@10", "R@100", "RR@10", "AP@100")
    title: Title = "join"
    self_hits: SelfHits = "keep"
    query_prompt: str | None = None
    document_prompt: str | None = None
    instruction: str = ""
    answers: bool = False
    turned: bool = False
    languages: tuple[str, ...] = ("en",)
    documents: tuple[str, ...] = ("text",)
    group: str | None = None
    mteb: str | None = None
    license: str = "unknown"
    note: str = ""

    @property
    def main(self) -> str:
        """The measure that stands for the task."""
        return self.measures[0]

    def to_json(self) -> dict[str, Any]:
        """All of it, as JSON has it."""
        return {name: list(x) if isinstance(x, tuple) else x for name, x in asdict(self).items()}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Task:
        """What :meth:`to_json` wrote."""
        fields: dict[str, Any] = {name: tuple(x) if isinstance(x, list) else x for name, x in value.items()}
        return cls(**fields)


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Tasks whose mean is published as one number.

    Attributes:
        name: what it is called here.
        title: one line.
        tasks: in the order of its tables.
        measure: the one that is averaged.
        citation: the paper.
        source: where revision, split, instruction and licence were read.
    """

    name: str
    title: str
    tasks: tuple[Task, ...]
    measure: str
    citation: str
    source: str

    def average(self, values: Mapping[str, float]) -> float | None:
        """The benchmark's number from a value for each task, by name; None where a task lacks one.

        Tasks of a group are averaged first, then groups and single tasks.
        """
        groups: dict[str, list[float]] = {}
        for task in self.tasks:
            if task.name not in values:
                return None
            groups.setdefault(task.group or task.name, []).append(values[task.name])
        means = [sum(group) / len(group) for group in groups.values()]
        return sum(means) / len(means)

    def describe(self) -> str:
        """The declaration as text, for people."""
        lines = [f"{self.name}: {self.title}", f"mean of {self.measure} over {len(self.tasks)} tasks", ""]
        for task in self.tasks:
            source = task.hub and f"{task.hub}@{task.revision or 'newest'}"
            lines.append(f"{task.name}  {source}{f' part {task.part}' if task.part else ''}, split {task.split}")
            rules = f"title {task.title}, self-hits {task.self_hits}"
            lines.append(f"    {', '.join(task.measures)}; {rules}; licence {task.license}")
            lines += [f"    {text}" for text in (task.instruction, task.note) if text]
        return "\n".join([*lines, "", f"cite    {self.citation}", f"source  {self.source}"])
