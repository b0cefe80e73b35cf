"""Experiment trackers (TensorBoard, Weights & Biases, Trackio) through accelerate's classes for them."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import logging
import secrets
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from teva_data.errors import MissingExtraError
from teva_data.files import atomic_file
from teva_data.recipe import Recipe
from teva_data.sections import flatten

logger = logging.getLogger(__name__)

# What accelerate has under each name.
TRACKERS = {"tensorboard": "TensorBoardTracker", "wandb": "WandBTracker", "trackio": "TrackioTracker"}


def expect_installed(names: Sequence[str]) -> None:
    """Refuse a tracker that is not installed before anything is trained.

    Raises:
        MissingExtraError: accelerate or the tracker's own package is missing.
    """
    for name in names:
        missing = [one for one in ("accelerate", name) if importlib.util.find_spec(one) is None]
        if missing:
            raise MissingExtraError(
                f"torch.trackers: {name} (without {' and '.join(missing)})",
                "teva-torch[trackers]" if name == "tensorboard" else f"teva-torch[trackers,{name}]",
            )


class Trackers:
    """Sends the lines of the metrics log on. For the one process that writes that log.

    Args:
        recipe: resolved; its keys become the run's configuration.
        names: of the trackers; none for nothing at all.
        project: that the run belongs to.
        output: the run's directory: its name is the run's, and TensorBoard's files go into its ``tensorboard``.
        sent: the last step that was sent before, by the run that is gone on with: it is not sent again.
    """

    def __init__(self, recipe: Recipe, names: Sequence[str], project: str, output: Path, sent: int = 0) -> None:
        self.sent, self._live = sent, dict[str, Any]()
        if not names:
            return
        from accelerate import PartialState, tracking

        PartialState()  # its messages need one; without exchanging anything, as it finds the processes joined already
        run, key = output.resolve().name, _key(output, new=not sent)
        arguments: dict[str, tuple[str, dict[str, Any]]] = {
            "tensorboard": ("tensorboard", {"logging_dir": output}),
            "wandb": (project, {"name": run, "id": key, "resume": "allow", "dir": str(output)}),
            "trackio": (project, {"name": f"{run}-{key}", "resume": "allow"}),
        }
        for name in names:
            first, options = arguments[name]
            tracker = getattr(tracking, TRACKERS[name])(first, **options)
            # This is the one process that writes, whatever accelerate takes it for.
            tracker.main_process_only = False
            tracker.start()
            self._live[name] = tracker
            if not sent:
                tracker.store_init_configuration(_plain(flatten(recipe.to_dict())))

    def write(self, row: Mapping[str, Any]) -> None:
        """Send one line, with its step; a tracker that fails is told of and left out from here on.

        Args:
            row: ``step`` and numbers by name.
        """
        step = int(row["step"])
        if step <= self.sent:
            return
        for name, tracker in list(self._live.items()):
            try:
                tracker.log({key: value for key, value in row.items() if key != "step"}, step=step)
            except Exception as error:  # noqa: BLE001 - of any library; training is worth more than its log elsewhere
                logger.warning("torch.trackers: %s gets no more lines, from step %d on: %s", name, step, error)
                del self._live[name]
        self.sent = step

    def close(self) -> None:
        """Send what waits, and end the run in each tracker."""
        for name, tracker in self._live.items():
            try:
                tracker.finish()
            except Exception as error:  # noqa: BLE001 - see write
                logger.warning("torch.trackers: %s was not ended: %s", name, error)
        self._live = {}


@contextlib.contextmanager
def tracked(*arguments: Any, **options: Any) -> Iterator[Trackers]:
    """:class:`Trackers`, closed at the end and after an error."""
    trackers = Trackers(*arguments, **options)
    try:
        yield trackers
    finally:
        trackers.close()


def _key(output: Path, new: bool) -> str:
    """What a run is known by where its directory's name may stand for several."""
    file = output / "tracker_run"
    if new or not file.exists():
        with atomic_file(file, "w") as target:
            target.write(secrets.token_hex(4))
    return file.read_text(encoding="utf-8")


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values that every tracker takes."""
    return {
        key: value if isinstance(value, bool | int | float | str) else json.dumps(value, ensure_ascii=False)
        for key, value in values.items()
        if value is not None
    }
