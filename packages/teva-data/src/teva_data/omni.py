"""Qwen2.5-Omni's inputs: pictures, clips and sounds among a text's tokens, and the positions that these have.

Xu et al., "Qwen2.5-Omni Technical Report" (arXiv 2503.20215), section 2.2. A clip that is heard has its frames and its
sound in turns, two seconds at a time; tokens that happen at one time have one position in time (TMRoPE).
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .artifact import Artifact
from .clips import Clip, patched
from .errors import ArtifactError, MediaError
from .files import write_json
from .limits import MediaLimits
from .pictures import FILE, Picture, PictureReader, bounded, processor_of, settings_of
from .pieces import Media
from .sounds import MelReader, Sound, extractor_of
from .sounds import settings_of as sound_settings_of

_FRAME = {"shortest_edge": 128 * 28 * 28, "longest_edge": 768 * 28 * 28}  # pixels, as published
_VIDEO_FILE = "video_preprocessor_config.json"


def thinker(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The configuration of the part that reads, sees and hears; any other model's as it is."""
    found: Mapping[str, Any] = config["thinker_config"] if config.get("model_type") == "qwen2_5_omni" else config
    return found


class Marks(NamedTuple):
    """The tokens around media and those that stand for them: their names, or their ids."""

    vision_begin: Any
    image: Any
    video: Any
    vision_end: Any
    audio_begin: Any
    audio: Any
    audio_end: Any

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Marks:
        """Their ids, from the part's configuration.

        Raises:
            ArtifactError: one is not there.
        """
        names = {
            "vision_begin": "vision_start_token_id", "image": "image_token_index", "video": "video_token_index",
            "vision_end": "vision_end_token_id", "audio_begin": "audio_start_token_id", "audio": "audio_token_index",
            "audio_end": "audio_end_token_id",
        }  # fmt: skip
        found = {mark: config.get(name, config.get(name.replace("_index", "_id"))) for mark, name in names.items()}
        if lacking := [names[mark] for mark, value in found.items() if not isinstance(value, int)]:
            raise ArtifactError(f"config.json: no {', '.join(lacking)}; expected the ids of Qwen2.5-Omni's marks")
        return cls(**found)


class Laid(NamedTuple):
    """What a piece of media is among a text's tokens.

    Attributes:
        frame: tokens of a picture, or of one step in time of a clip.
        steps: in time; 0 of a sound.
        step: seconds from one to the next.
        sound: tokens of the sound.
    """

    frame: int
    steps: int
    step: float
    sound: int


class OmniReader(PictureReader):
    """Reads pictures, clips and sounds for Qwen2.5-Omni.

    Args:
        processor: the model's image processor (transformers), on Pillow.
        marks: the names of its tokens.
        settings: of the processor, as its file has them.
        mel: reads its sounds.
        limits: what is taken of clips and sounds.
        size: least and most pixels of a clip's frame.
        clock: positions of a second, and seconds of a turn of frames and sound.
    """

    kinds = ("image", "video", "audio")
    uses = tuple(field.name for field in dataclasses.fields(MediaLimits))

    def __init__(
        self,
        processor: Any,
        marks: Marks,
        settings: Mapping[str, Any],
        mel: MelReader,
        limits: MediaLimits,
        size: dict[str, int],
        clock: tuple[float, float],
    ) -> None:
        super().__init__(processor, marks.vision_begin, marks.image, marks.vision_end, settings)
        self.marks, self.mel, self.limits, self.size, self.clock = marks, mel, limits, size, clock
        self.heard = float(mel.extractor.chunk_length)
        self._laid = functools.lru_cache(1 << 16)(self._lay_out)

    @classmethod
    def of(
        cls, artifact: Artifact, config: Mapping[str, Any], tokenizer: Any, limits: MediaLimits,
        min_pixels: int | None, max_pixels: int | None,
    ) -> OmniReader:  # fmt: skip
        """The reader of a model's media; arguments as :meth:`PictureReader.from_artifact` has them.

        Raises:
            ArtifactError: the processors' file is missing or cannot be loaded.
            RecipeError: limits that exclude each other.
        """
        part = thinker(config)
        settings, sounds = settings_of(artifact), sound_settings_of(artifact)
        if settings is None or sounds is None:
            raise ArtifactError(
                f"{artifact.path}: no {FILE} with the settings of pictures and of sounds. Copy that of the model it "
                "was made from into the directory"
            )
        processor = processor_of(artifact)
        processor.size = bounded(processor.size, min_pixels, max_pixels)
        names = Marks(*map(tokenizer.convert_ids_to_tokens, Marks.of(part)))
        size = _frame_size(artifact, limits.video_pixels)
        mel = MelReader(extractor_of(artifact), limits.audio_seconds)
        clock = float(part.get("position_id_per_seconds", 25)), float(part.get("seconds_per_chunk", 2))
        return cls(processor, names, {**settings, **sounds}, mel, limits, size, clock)

    @property
    def pads(self) -> tuple[str, ...]:
        """The tokens that stand for media."""
        return self.marks.image, self.marks.video, self.marks.audio

    @property
    def fixed(self) -> tuple[str, ...]:
        """Those, and the ones around them."""
        return tuple(self.marks)

    def read(self, media: Media) -> Picture | Clip | Sound:  # type: ignore[override]
        """What the model takes of a picture, a clip or a sound.

        Raises:
            MediaError: it cannot be decoded, or its sides are such that no patches fit.
        """
        if media.kind == "image":
            return super().read(media)
        if media.kind == "audio":
            return self.mel.read(media)
        from .modalities import video

        head = video.head(media)
        times = self.limits.times(head.seconds, self.tone.frames)
        try:
            pixels, rows, columns = patched(video.frames(media, times.tolist()), self.processor, self.size)
        except ValueError as error:
            raise _unfit(media, head.width, head.height, error) from error
        laid = self._laid(media)
        sound = self.mel.read(media) if laid.sound else None
        return Clip(pixels, (len(times) // self.tone.frames, rows, columns), self.tone, laid.step, sound)

    def count(self, media: Media) -> int:
        """Tokens that stand for a piece of media, without those around it, from its file's head.

        Raises:
            MediaError: see :meth:`read`.
        """
        laid = self._laid(media)
        return laid.frame * laid.steps + laid.sound

    def written(self, media: Media) -> str:
        """A piece of media as the tokenizer reads it."""
        laid, marks = self._laid(media), self.marks
        if media.kind == "image":
            return f"{marks.vision_begin}{marks.image * laid.frame}{marks.vision_end}"
        sound = f"{marks.audio * laid.sound}"
        if media.kind == "audio":
            return f"{marks.audio_begin}{sound}{marks.audio_end}"
        if not laid.sound:
            return f"{marks.vision_begin}{marks.video * laid.frame * laid.steps}{marks.vision_end}"
        turns = "".join(
            (marks.audio if heard else marks.video) * (stop - start)
            for heard, start, stop in in_turns(laid.steps, laid.frame, laid.step, laid.sound, self.clock)
        )
        return f"{marks.vision_begin}{marks.audio_begin}{turns}{marks.audio_end}{marks.vision_end}"

    def placed(self, media: Media) -> str:
        """A piece of media for a runtime that reads it by itself: one token where it stands."""
        marks = self.marks
        if media.kind == "audio":
            return f"{marks.audio_begin}{marks.audio}{marks.audio_end}"
        return f"{marks.vision_begin}{marks.image if media.kind == 'image' else marks.video}{marks.vision_end}"

    def save(self, directory: Path) -> None:
        """Write the processors' file, and that of frames, with the limits of this reader."""
        super().save(directory)
        write_json(
            directory / _VIDEO_FILE,
            {**{key: self.settings[key] for key in _OF_FRAMES if key in self.settings}, "size": self.size,
             "video_processor_type": "Qwen2VLVideoProcessor", "fps": self.limits.video_rate,
             "max_frames": self.limits.video_frames, "do_sample_frames": True},
        )  # fmt: skip

    def _lay_out(self, media: Media) -> Laid:
        if media.kind == "image":
            return Laid(self._count(media), 1, 0.0, 0)
        if media.kind == "audio":
            return Laid(0, 0, 0.0, self.mel.tokens(self.mel.seconds_of(media)))
        from .modalities import video

        head = video.head(media)
        count = len(self.limits.times(head.seconds, self.tone.frames))
        try:
            limits = {"min_pixels": self.size["shortest_edge"], "max_pixels": self.size["longest_edge"]}
            patches = self.processor.get_number_of_image_patches(head.height, head.width, limits)
        except ValueError as error:
            raise _unfit(media, head.width, head.height, error) from error
        heard = self.limits.video_sound and video.has_sound(media)
        return Laid(
            int(patches) // int(self.processor.merge_size) ** 2, count // self.tone.frames,
            head.seconds * self.tone.frames / count,
            self.mel.tokens(self.mel.seconds_of(media)) if heard else 0,
        )  # fmt: skip


_OF_FRAMES = ("patch_size", "merge_size", "temporal_patch_size", "image_mean", "image_std")


def _frame_size(artifact: Artifact, most: int | None) -> dict[str, int]:
    size = dict(_FRAME)
    for name in (_VIDEO_FILE, "processor_config.json"):
        if (artifact.path / name).is_file():
            found = json.loads((artifact.path / name).read_text(encoding="utf-8"))
            found = found if name == _VIDEO_FILE else found.get("video_processor") or {}
            size |= {key: value for key, value in (found.get("size") or {}).items() if key in size}
            break
    if most is not None:
        size["longest_edge"] = most
    # A limit below the model's least size asks for smaller frames than that.
    return {**size, "shortest_edge": min(size.values())}


def _unfit(media: Media, width: int, height: int, error: Exception) -> MediaError:
    return MediaError(
        f"the {media.kind} does not fit the model", file=media.path, found=f"{width} x {height} pixels: {error}"
    )


def in_turns(
    steps: int, frame: int, step: float, sound: int, clock: tuple[float, float]
) -> Iterator[tuple[bool, int, int]]:
    """A clip's tokens and those of its sound in turns of a few seconds, as the published processor orders them.

    Args:
        steps: in time, of the clip.
        frame: tokens of each.
        step: seconds from one to the next.
        sound: tokens of the sound.
        clock: positions of a second, and seconds of a turn.

    Yields:
        Whether it is the sound, and the first and last (not included) of its own tokens.
    """
    per_second, seconds = clock
    seen = _turns(np.repeat(np.arange(steps) * step * per_second, frame), int(per_second * seconds))
    heard = _turns(np.arange(sound, dtype=np.float64), int(per_second * seconds))
    for turn in range(max(len(seen), len(heard))):
        if turn < len(seen):
            yield False, *seen[turn]
        if turn < len(heard):
            yield True, *heard[turn]


def _turns(values: NDArray[np.float64], length: int) -> list[tuple[int, int]]:
    """Where each turn begins and ends. A turn ends with the first token past its time, one that is far past ends it
    alone: so the model's own processor has it, and so it was trained.
    """
    found, start = list[tuple[int, int]](), 0
    for at in range(len(values)):
        if values[at] >= (len(found) + 1) * length:
            found.append((start, at))
            start = at
    return [*found, (start, len(values))]


@dataclasses.dataclass(frozen=True)
class Places:
    """Computes the positions of tokens.

    Attributes:
        marks: their ids.
        merge: patches of a side that become one token.
        clock: positions of a second, and seconds of a turn.
    """

    marks: Marks
    merge: int
    clock: tuple[float, float]

    def positions(self, ids: Sequence[int], items: Sequence[Picture | Clip | Sound]) -> NDArray[np.int64]:
        """Positions in time, by row and by column: int64 [3, T].

        Args:
            ids: T token ids.
            items: the pictures, clips and sounds that some of them stand for, in order.
        """
        seen = iter([item for item in items if isinstance(item, Picture)])
        parts, at, start, row = list[NDArray[np.int64]](), 0, 0, np.asarray(ids)
        begins = np.flatnonzero(row == self.marks.vision_begin)
        for begin in begins.tolist():
            if begin + 1 >= len(row) or row[begin + 1] not in (
                self.marks.image,
                self.marks.video,
                self.marks.audio_begin,
            ):
                continue  # a mark that a text holds
            parts.append(_plain(begin - at, start))
            start += begin - at
            shown = self._shown(next(seen), start)
            parts += shown
            at, start = begin + sum(part.shape[1] for part in shown), int(shown[-1].max()) + 1
        return np.concatenate([*parts, _plain(len(row) - at, start)], axis=1)

    def _shown(self, item: Picture, start: int) -> list[NDArray[np.int64]]:
        """What is seen, with the marks around it."""
        steps, rows, columns = item.grid
        rows, columns = rows // self.merge, columns // self.merge
        step, sound = (item.step, item.sound) if isinstance(item, Clip) else (1.0, None)
        # In float32, as the model counts.
        seconds = np.arange(steps, dtype=np.float32) * np.float32(step)
        time = np.repeat((seconds * np.float32(self.clock[0])).astype(np.int64), rows * columns)
        place = np.arange(rows * columns)
        marks = 1 if sound is None else 2
        grid = np.stack([time, np.tile(place // columns, steps), np.tile(place % columns, steps)]) + start + 1
        begin = np.full((3, marks), start)
        if sound is None:
            return [begin, grid, np.full((3, 1), int(grid.max()) + 1)]
        heard = _plain(sound.tokens, start + 1)
        turns = [
            (heard if is_heard else grid)[:, first:last]
            for is_heard, first, last in in_turns(steps, rows * columns, step, sound.tokens, self.clock)
        ]
        return [begin, *turns, np.full((3, 2), int(turns[-1].max()) + 1)]


def _plain(count: int, start: int) -> NDArray[np.int64]:
    """Positions of tokens that follow one another."""
    return np.tile(np.arange(start, start + count), (3, 1))
