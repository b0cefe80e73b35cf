"""Clips as patches: two frames at a time, spread over the clip, and the sound of it where the model hears too."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .pictures import Picture
from .sounds import Sound


@dataclasses.dataclass(frozen=True, eq=False)
class Clip(Picture):
    """Frames of a clip cut into patches, as bytes.

    Attributes:
        pixels: uint8 [P, C x frames x side x side]: each patch has some frames that follow one another.
        grid: steps in time, rows and columns of patches; P is their product.
        step: seconds from one step in time to the next.
        sound: what is heard meanwhile; None where nothing is.
    """

    step: float = 0.0
    sound: Sound | None = None

    @property
    def depth(self) -> int:
        """Frames of a patch."""
        assert self.tone is not None
        return self.tone.frames


def patched(
    frames: Iterable[NDArray[np.uint8]], processor: Any, size: dict[str, int]
) -> tuple[NDArray[np.uint8], int, int]:
    """Patches of frames, ``temporal_patch_size`` of them together.

    Args:
        frames: uint8 [H, W, 3] each, all of one size.
        processor: the model's image processor, on Pillow.
        size: least and most pixels of a frame, as the processor takes them.

    Returns:
        uint8 [P, C x frames x side x side] as :class:`Clip` has them; rows and columns of the grid.

    Raises:
        ValueError: sides that no patches fit.
    """
    from PIL import Image

    depth = int(processor.temporal_patch_size)
    steps, rows, columns = [], 0, 0
    for group in _groups(frames, depth):
        found = processor(
            images=[Image.fromarray(frame) for frame in group], size=size, return_tensors="np", do_rescale=False,
            do_normalize=False,
        )  # fmt: skip
        _, rows, columns = map(int, found["image_grid_thw"][0])
        values = found["pixel_values"]
        # A still picture is the same in all frames of its patches: of each the first one is taken.
        colours = values.reshape(len(group), rows * columns, 3, depth, -1)[:, :, :, 0]
        steps.append(colours.transpose(1, 2, 0, 3).reshape(rows * columns, -1).astype(np.uint8))
    return np.concatenate(steps), rows, columns


def _groups(frames: Iterable[NDArray[np.uint8]], size: int) -> Iterator[list[NDArray[np.uint8]]]:
    """Frames, so many together; the last one again where one is lacking."""
    waiting = iter(frames)
    while group := list(itertools.islice(waiting, size)):
        yield group + [group[-1]] * (size - len(group))
