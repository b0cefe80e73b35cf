"""Records left out of training for a picture that cannot be read: agreed on by all processes, and told."""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path

import torch
from teva_data.feed import TokenBatch
from teva_data.files import atomic_file
from teva_data.leaving_out import without

from .distributed import Processes

logger = logging.getLogger(__name__)
FILE = "skipped.jsonl"
ROLES = ("query", "document")


class Skipped:
    """What a run leaves out.

    Args:
        output: the run's directory; its ``skipped.jsonl`` names each record once, with its file and what is wrong.
        processes: those that share the batches.
        resumed: whether the run goes on: what it has named so far is kept.
    """

    def __init__(self, output: Path, processes: Processes, *, resumed: bool) -> None:
        self.path, self.processes = output / FILE, processes
        self._found: dict[tuple[str, str], str] = {}
        if resumed and processes.main and self.path.is_file():
            rows = map(json.loads, self.path.read_text(encoding="utf-8").splitlines())
            self._found = {(row["role"], row["id"]): row["problem"] for row in rows}

    def agree(self, item: TokenBatch) -> TokenBatch:
        """A batch whose loss is without what any process could not read; all processes are here together."""
        batch = item.batch
        flags = torch.zeros(batch.query_count + batch.document_count, dtype=torch.int64)
        starts = (batch.query_range[0], batch.query_count + batch.document_range[0])
        names = ([query.query_id for query in batch.queries], [document.docid for document in batch.documents])
        for role, start, ids, bad in zip(ROLES, starts, names, item.bad, strict=True):
            for at, error in bad.items():
                flags[start + at] = 1
                self._note(role, ids[at], str(error))
        self.processes.add(flags)
        if not flags.any():
            return item
        out = flags.bool().numpy()
        return dataclasses.replace(item, kept=without(batch, out[: batch.query_count], out[batch.query_count :]))

    def write(self) -> dict[str, int]:
        """Put what all processes have left out into the file.

        Returns:
            How many records of each role.
        """
        told = self.processes.texts(json.dumps([[*key, problem] for key, problem in self._found.items()]))
        found = {(role, name): problem for text in told for role, name, problem in json.loads(text)}
        if self.processes.main and found:
            with atomic_file(self.path, "w") as file:
                for (role, name), problem in sorted(found.items()):
                    row = {"role": role, "id": name, "problem": problem}
                    file.write(json.dumps(row, ensure_ascii=False) + "\n")
        return {role: sum(one == role for one, _ in found) for role in ROLES}

    def _note(self, role: str, name: str, problem: str) -> None:
        if (role, name) not in self._found:
            self._found[role, name] = problem
            logger.warning("%s %s is left out: %s", role, name, problem)
