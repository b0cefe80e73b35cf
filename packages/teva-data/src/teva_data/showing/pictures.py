"""Media as a model takes them: what they cost, and what is seen or heard, made again from what the model is given.

A picture is one; of a clip all frames stand side by side; of a sound there is its wave, with its spectrogram below.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from teva_data.errors import RecipeError
from teva_data.pictures import Picture, PictureReader
from teva_data.pieces import Media
from teva_data.sounds import Sound

if TYPE_CHECKING:
    from PIL.Image import Image

    from teva_data.showing import Example

_WAVE, _WIDEST = 80, 1600  # pixels: of a wave's height, and of what stands side by side


@dataclass(frozen=True)
class Seen:
    """A piece of media as a model takes it.

    Attributes:
        media: where it lies.
        size: pixels of width and height after resizing, of a picture or a frame; columns and rows of a spectrogram.
        grid: rows and columns of patches; (0, 0) of a sound.
        tokens: that it is for the model.
        image: it, resized; a clip's frames side by side; a wave and a spectrogram.
        frames: of a clip; 1 of a picture, 0 of a sound.
        step: seconds from frame to frame.
        sound: tokens of a clip's sound.
    """

    media: Media
    size: tuple[int, int]
    grid: tuple[int, int]
    tokens: int
    image: Image
    frames: int = 1
    step: float = 0.0
    sound: int = 0


def seen(reader: PictureReader, media: Media) -> Seen:
    """Read a piece of media as the model does, and make it again.

    Raises:
        DataError: it cannot be decoded.
    """
    found: Any = reader.read(media)
    if isinstance(found, Sound):
        image = _heard(media, found)
        rows, columns = _spectrogram(found).shape
        return Seen(media, (columns, rows), (0, 0), reader.count(media), image, 0)
    _, rows, columns = found.grid
    frames = _frames(reader, found)
    height, width = frames.shape[1:3]
    sound = getattr(found, "sound", None)
    image = _side_by_side(frames)
    if sound is not None:
        image = _stacked([image, _heard(media, sound)])
    step = 0.0
    if media.kind == "video":
        from teva_data.modalities import video

        step = video.head(media).seconds / len(frames)
    return Seen(
        media, (width, height), (rows, columns), reader.count(media), image, len(frames), step,
        0 if sound is None else sound.tokens,
    )  # fmt: skip


def _frames(reader: PictureReader, picture: Picture) -> NDArray[np.uint8]:
    """uint8 [frames, height, width, 3], without the model's normalisation."""
    pixels = _pixels(reader, picture)
    shades = (pixels * np.asarray(reader.processor.image_std) + np.asarray(reader.processor.image_mean)) * 255
    found: NDArray[np.uint8] = shades.round().clip(0, 255).astype(np.uint8)
    return found


def _pixels(reader: PictureReader, picture: Picture) -> NDArray[np.float32]:
    """Normalised pixels, float32 [frames, height, width, 3]."""
    if reader.apart:
        patches = picture.patches if picture.patches.ndim == 4 else picture.patches[None]
        return patches.transpose(0, 2, 3, 1)
    steps, rows, columns = picture.grid
    merge, side = int(reader.processor.merge_size), int(reader.processor.patch_size)
    # A block of patches that become one token is kept together: [step, block row, block column, row, column, patch]; a
    # still picture is the same in all frames of its patch.
    blocks = picture.patches.reshape(steps, rows // merge, columns // merge, merge, merge, 3, -1, side, side)
    blocks = blocks[..., : picture.depth, :, :]
    # -> [step, frame, block row, row, y, block column, column, x, colour]
    ordered = blocks.transpose(0, 6, 1, 3, 7, 2, 4, 8, 5)
    return ordered.reshape(-1, rows * side, columns * side, 3)


def _side_by_side(frames: NDArray[np.uint8]) -> Image:
    from PIL import Image

    count, height, width, _ = frames.shape
    across = max(1, min(count, _WIDEST // width))
    sheet = np.full((-(-count // across) * height, across * width, 3), 255, dtype=np.uint8)
    for at, frame in enumerate(frames):
        row, column = divmod(at, across)
        sheet[row * height : (row + 1) * height, column * width : (column + 1) * width] = frame
    return Image.fromarray(sheet)


def _spectrogram(sound: Sound) -> NDArray[np.float32]:
    """float32 [mel, frames]: CLAP's extractor has it the other way round."""
    return sound.features if sound.features.ndim == 2 else sound.features[0].T


def _heard(media: Media, sound: Sound) -> Image:
    """A wave as it is stored, and below it the spectrogram that the model is given."""
    from PIL import Image

    from teva_data.modalities.audio import decode

    mel = _spectrogram(sound)
    width = max(200, min(_WIDEST, mel.shape[1]))
    span = float(mel.max() - mel.min())
    shades = (255 * (mel[::-1] - mel.min()) / (span or 1)).astype(np.uint8)
    lower = Image.fromarray(shades).resize((width, max(_WAVE, mel.shape[0]))).convert("RGB")
    return _stacked([Image.fromarray(_wave(decode(media, seconds=60.0).samples, width)), lower])


def _wave(samples: NDArray[np.float32], width: int) -> NDArray[np.uint8]:
    """uint8 [height, width, 3]: of each column the lowest and the highest of its samples, and all between."""
    parts = np.array_split(samples, width) if len(samples) >= width else [samples[[at * len(samples) // width]]
                                                                           for at in range(width)]  # fmt: skip
    low, high = (np.array([pick(part) for part in parts]) for pick in (np.min, np.max))
    loudest = float(np.abs(samples).max()) or 1.0
    middle = (_WAVE - 1) / 2
    rows = np.arange(_WAVE)[:, None]
    drawn = (rows >= np.floor(middle - high / loudest * middle)) & (rows <= np.ceil(middle - low / loudest * middle))
    return np.repeat(np.where(drawn, 60, 255).astype(np.uint8)[:, :, None], 3, axis=2)


def _stacked(images: list[Image]) -> Image:
    """Images one below the other, on white."""
    from PIL import Image

    sheet = Image.new("RGB", (max(one.width for one in images), sum(one.height for one in images)), "white")
    top = 0
    for one in images:
        sheet.paste(one, (0, top))
        top += one.height
    return sheet


def save(example: Example, directory: Path) -> list[Path]:
    """Write an example's pictures as the model sees them; clips as their frames, sounds as wave and spectrogram.

    Raises:
        RecipeError: there is none: no model is shown, or it sees no pictures, or the example has none.
    """
    shown = [(each, at, one) for each in (example.query, *example.documents) for at, one in enumerate(each.seen)]
    if not shown:
        raise RecipeError(
            "pictures: nothing to write; expected a model or a recipe that sees or hears, and a row with media"
        )
    directory.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, (each, at, one) in enumerate(shown):
        paths.append(directory / f"{number}-{each.role}-{at}.png")
        one.image.save(paths[-1])
    return paths
