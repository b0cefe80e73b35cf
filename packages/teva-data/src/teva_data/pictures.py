"""Pictures as a vision-language model takes them: cut into patches within a budget of pixels, and counted in tokens.

The models meant here (Qwen2-VL, Qwen2.5-VL, Qwen3-VL) take a picture in about its own shape: its sides are rounded to
whole patches, its area is kept within the model's limits, and ``merge`` x ``merge`` patches become one token of the
text's sequence, between a token that begins it and one that ends it. All of that is the model's own image processor's
work, here and at serving.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import towers
from .artifact import Artifact
from .errors import ArtifactError, DataError, MediaError, MissingExtraError, RecipeError
from .files import write_json
from .pieces import Media

if TYPE_CHECKING:
    from .limits import MediaLimits

logger = logging.getLogger(__name__)

FILE = "preprocessor_config.json"
OMNI = ("qwen2_5_omni_thinker", "qwen2_5_omni")  # read by teva_data.omni


class Tone(NamedTuple):
    """What a model's image processor makes of a byte: ``byte * scale + shift`` of each colour, in several frames.

    Attributes:
        scale: float32 [C], of each of C colours.
        shift: float32 [C].
        frames: equal ones that a still picture is.
    """

    scale: NDArray[np.float32]
    shift: NDArray[np.float32]
    frames: int


@dataclasses.dataclass(frozen=True, eq=False)
class Picture:
    """A picture cut into patches.

    As bytes of one frame it takes an eighth of what the model takes: about what the resized picture itself does, 2 MB a
    page of 1,024 tokens. So that is how it waits.

    Attributes:
        pixels: with a tone uint8 [P, C x side x side], else float32, as the model takes them.
        grid: frames (1), rows and columns of patches; P is their product.
        tone: what becomes of a byte; None of pixels that are as the model takes them.
    """

    pixels: NDArray[Any]
    grid: tuple[int, int, int]
    tone: Tone | None = None

    @property
    def depth(self) -> int:
        """Frames of a patch that ``pixels`` hold: of a still picture one, though the model takes several."""
        return 1

    @property
    def patches(self) -> NDArray[np.float32]:
        """As the model takes them: float32, with a tone [P, C x frames x side x side], normalised."""
        if self.tone is None:
            return self.pixels
        colours = self.pixels.reshape(len(self.pixels), len(self.tone.scale), self.depth, -1)
        values = colours * self.tone.scale[:, None, None] + self.tone.shift[:, None, None]
        whole = np.repeat(values, self.tone.frames // self.depth, axis=2)
        found: NDArray[np.float32] = whole.reshape(len(self.pixels), -1)
        return found


class PictureReader:
    """Reads pictures for one model.

    Args:
        processor: the model's image processor (transformers), on Pillow.
        begin: the token that stands before a picture's own.
        pad: the token that stands for ``merge`` x ``merge`` patches.
        end: the token after them.
        settings: of the processor, as its file has them.

    Attributes:
        apart: whether a picture is an input of its own; else it stands among the text's tokens.
        kinds: of media that the model takes.
        limits: what is taken of clips and sounds, of a model that takes some (``kinds``).
        uses: the fields of ``limits`` that change anything.
        heard: seconds of a sound that the model hears at most, whatever the limits; of a model that hears.
    """

    apart = False
    uses: tuple[str, ...] = ()
    heard: float = math.inf
    kinds: tuple[str, ...] = ("image",)
    limits: MediaLimits

    def __init__(self, processor: Any, begin: str, pad: str, end: str, settings: Mapping[str, Any]) -> None:
        self.settings = settings
        self.processor, self.begin, self.pad, self.end = processor, begin, pad, end
        # Pictures come again in later batches; of these few bytes each is kept.
        self._count = functools.lru_cache(1 << 16)(self._count_tokens)

    @classmethod
    def from_artifact(
        cls,
        artifact: Artifact,
        tokenizer: Any,
        min_pixels: int | None = None,
        max_pixels: int | None = None,
        limits: Mapping[str, Any] | None = None,
    ) -> PictureReader | None:
        """The reader of a model's pictures; None where the model sees none, or not in a way that is known here.

        That of a model with two towers is a :class:`teva_data.tower_reader.TowerReader`.

        Args:
            artifact: the model.
            tokenizer: its tokenizer.
            min_pixels: smaller pictures are enlarged to it; the model's own limit where not given.
            max_pixels: larger pictures are made smaller; the model's own limit where not given.
            limits: of clips and sounds, in place of the model's own: the fields of :class:`.limits.MediaLimits`.

        Raises:
            ArtifactError: the processor cannot be loaded.
            RecipeError: limits that exclude each other, or one that means nothing to the model.
            MissingExtraError: Pillow or transformers is not installed.
        """
        given = {key: value for key, value in (limits or {}).items() if value is not None}
        reader = cls._of(artifact, tokenizer, min_pixels, max_pixels, given)
        for key in given:
            if key not in (reader.uses if reader else ()):
                raise RecipeError(f"model.{key}: {artifact.name} {_takes(reader)}. Leave it out")
        if reader and given.get("audio_seconds", 0) > reader.heard:
            logger.warning(
                "model.audio_seconds: found %g; %s hears %g s of a sound at most, so no more is taken",
                given["audio_seconds"], artifact.name, reader.heard,
            )  # fmt: skip
        return reader

    @classmethod
    def _of(
        cls, artifact: Artifact, tokenizer: Any, min_pixels: int | None, max_pixels: int | None,
        limits: Mapping[str, Any],
    ) -> PictureReader | None:  # fmt: skip
        from .limits import MediaLimits

        config = json.loads((artifact.path / "config.json").read_text(encoding="utf-8"))
        media = MediaLimits.of(config, **limits)
        if towers.is_one(config):
            from .tower_reader import TowerReader

            if min_pixels is not None or max_pixels is not None:
                raise RecipeError(
                    f"model.min_pixels, model.max_pixels: {config['model_type']} sees all pictures at one size. Leave "
                    "them out"
                )
            return TowerReader.of(artifact, config, media)
        if config.get("model_type") in OMNI:
            from .omni import OmniReader

            return OmniReader.of(artifact, config, tokenizer, media, min_pixels, max_pixels)
        if "vision_config" not in config:
            return None
        names = [config.get(f"{name}_token_id") for name in ("vision_start", "image", "vision_end")]
        if not all(isinstance(name, int) for name in names):
            logger.warning(
                "%s: %s sees pictures in a way that teva does not know (Qwen2-VL's and later is): it reads text alone",
                artifact.path, config.get("model_type"),
            )  # fmt: skip
            return None
        settings = settings_of(artifact)
        if settings is None:
            logger.warning(
                "%s: no %s, so the model reads text alone. Copy that of the model it was made from into the directory",
                artifact.path, FILE,
            )  # fmt: skip
            return None
        processor = processor_of(artifact)
        processor.size = bounded(processor.size, min_pixels, max_pixels)
        begin, pad, end = (tokenizer.convert_ids_to_tokens(name) for name in names)
        return cls(processor, begin, pad, end, settings)

    def read(self, media: Media) -> Picture:
        """A picture's patches.

        Raises:
            DataError: it is no picture, cannot be decoded, or has sides that no patches fit (one 200 times the other).
        """
        from .modalities.image import decode

        expect_image(media)
        image = decode(media)
        try:
            found = self.processor(images=[image], return_tensors="np", do_rescale=False, do_normalize=False)
        except ValueError as error:
            raise _unfit(media, image.size, error) from error
        patches, (frames, rows, columns) = found["pixel_values"], map(int, found["image_grid_thw"][0])
        # Whole numbers from 0 to 255, since resizing gives bytes; the frames of a still picture are one.
        one_frame = patches.reshape(len(patches), len(self.tone.scale), self.tone.frames, -1)[:, :, 0]
        return Picture(one_frame.reshape(len(patches), -1).astype(np.uint8), (frames, rows, columns), self.tone)

    @functools.cached_property
    def tone(self) -> Tone:
        """What the processor makes of a byte."""
        one = self.processor
        mean, std = np.asarray(one.image_mean), np.asarray(one.image_std)
        mean, std = (mean, std) if one.do_normalize else (np.zeros_like(mean), np.ones_like(std))
        scale = (one.rescale_factor if one.do_rescale else 1.0) / std
        return Tone(scale.astype(np.float32), (-mean / std).astype(np.float32), int(one.temporal_patch_size))

    def count(self, media: Media) -> int:
        """Tokens that stand for a picture, without those that begin and end it, from its file's header.

        Raises:
            DataError: see :meth:`read`.
        """
        return self._count(media)

    def _count_tokens(self, media: Media) -> int:
        from .modalities.image import upright_size

        expect_image(media)
        width, height = upright_size(media)
        try:
            patches = self.processor.get_number_of_image_patches(height, width, {"size": dict(self.processor.size)})
        except ValueError as error:
            raise _unfit(media, (width, height), error) from error
        return int(patches) // int(self.processor.merge_size) ** 2

    def save(self, directory: Path) -> None:
        """Write the processor's file with the limits of this reader, so that every runtime has them."""
        write_json(directory / FILE, {**self.settings, "size": dict(self.processor.size)})

    @property
    def pads(self) -> tuple[str, ...]:
        """The tokens that stand for media."""
        return (self.pad,)

    @property
    def fixed(self) -> tuple[str, ...]:
        """Those, and the ones around them."""
        return self.begin, self.pad, self.end

    def written(self, media: Media) -> str:
        """A picture as the tokenizer reads it."""
        return f"{self.begin}{self.pad * self.count(media)}{self.end}"

    def placed(self, media: Media) -> str:
        """A picture for a runtime that cuts it into patches by itself: one token where it stands."""
        return f"{self.begin}{self.pad}{self.end}"


def _takes(reader: PictureReader | None) -> str:
    """What the limits of clips and sounds are to a model."""
    if reader is None or not reader.uses:
        return "takes neither clips nor recordings"
    used = ", ".join(f"model.{key}" for key in reader.uses)
    return f"has no use for it; what it takes of clips and recordings is set by {used}"


def bounded(size: Mapping[str, int], min_pixels: int | None, max_pixels: int | None) -> dict[str, int]:
    """A processor's limits of pixels with those that are given in their place.

    Raises:
        RecipeError: limits that exclude each other.
    """
    found = {"shortest_edge": size["shortest_edge"], "longest_edge": size["longest_edge"]}
    found |= {} if min_pixels is None else {"shortest_edge": min_pixels}
    found |= {} if max_pixels is None else {"longest_edge": max_pixels}
    if found["shortest_edge"] > found["longest_edge"]:
        raise RecipeError(
            f"model.min_pixels: found {found['shortest_edge']}; expected at most model.max_pixels "
            f"({found['longest_edge']})"
        )
    return found


def settings_of(artifact: Artifact) -> dict[str, Any] | None:
    """What a model's files say of its image processor: alone, or within those of the whole processor."""
    for name in (FILE, "processor_config.json"):
        if (artifact.path / name).is_file():
            found: dict[str, Any] = json.loads((artifact.path / name).read_text(encoding="utf-8"))
            if name == FILE or "image_processor" in found:
                return found if name == FILE else dict(found["image_processor"])
    return None


def processor_of(artifact: Artifact) -> Any:
    """A model's image processor, on Pillow.

    Raises:
        ArtifactError: it cannot be loaded.
        MissingExtraError: Pillow or transformers is not installed.
    """
    try:
        from transformers import AutoImageProcessor
    except ImportError as error:
        raise MissingExtraError("reading pictures", "teva-data[inputs,image]") from error
    try:
        # Pillow's: the other backend needs torchvision, and resizes a little otherwise.
        return AutoImageProcessor.from_pretrained(str(artifact.path), local_files_only=True, backend="pil")
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        raise ArtifactError(f"{artifact.path}: the image processor cannot be loaded: {error}") from error


def expect_image(media: Media) -> None:
    """Refuse what is no picture.

    Raises:
        DataError: it is a clip or a recording.
    """
    if media.kind != "image":
        raise DataError(f"this model sees pictures, and no {media.kind}", file=media.path)


def _unfit(media: Media, size: tuple[int, int], error: Exception) -> MediaError:
    return MediaError(
        "the picture does not fit the model", file=media.path, found=f"{size[0]} x {size[1]} pixels: {error}"
    )
