"""The retriever of a model with two towers (CLIP, SigLIP, CLAP): a text goes through one, a picture, a clip or a sound
through the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

import torch
from teva_data import merging, towers
from teva_data.inputs import Tokens
from teva_data.pictures import Picture
from teva_data.sounds import Sound
from torch import Tensor, nn

from . import hearing
from .model import Retriever

# What transformers calls the parts of each tower.
_PARTS = {
    "read": ("text_model", "text_projection"), "seen": ("vision_model", "visual_projection"),
    "heard": ("audio_model", "audio_projection"),
}  # fmt: skip


class TowerRetriever(Retriever):
    """Encodes texts, and pictures or sounds, by the two towers of one model, each with its own pooling, into one space.

    Args:
        backbone: a model of transformers with ``get_text_features``, and one of ``get_image_features`` and
            ``get_audio_features``.
        normalize: whether vectors get length 1.
        pad_id: the id that fills short rows.
    """

    apart = True

    def __init__(self, backbone: Any, *, normalize: bool, pad_id: int) -> None:
        super().__init__(backbone, _by_itself, normalize=normalize, pad_id=pad_id)
        self._length = towers.fixed_length(backbone.config.to_dict())
        # The contrastive loss's own scale: the recipe's temperature stands in its place. It stays in the model's files,
        # and is no parameter: neither FSDP2 nor DeepSpeed can hold a single number in parts.
        for name, parameter in list(backbone.named_parameters(recurse=False)):
            if name.startswith(("logit_scale", "logit_bias")):
                delattr(backbone, name)
                backbone.register_buffer(name, parameter.detach())

    def train(self, mode: bool = True) -> TowerRetriever:
        """As any module, but for batch normalisation (CLAP's of a spectrogram), which keeps the statistics that it has.

        With those of a batch, a sound's vector would depend on what else is in its pass, and gradient caching would
        give another gradient for each size of a pass.
        """
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self

    @property
    def dim(self) -> int:
        """Numbers in a vector."""
        return towers.dim(self.backbone.config.to_dict())

    def pack(self, dtype: torch.dtype, device: torch.device | None = None) -> bool:
        """Texts are padded: a tower pools by itself, which knows of no packing."""
        return False

    def forward(  # type: ignore[override]
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        pixel_values: Tensor | None = None,
        frames: Tensor | None = None,
        input_features: Tensor | None = None,
    ) -> Tensor:
        """Vectors of padded token ids, then those of pictures and clips, then those of sounds.

        Args:
            input_ids: int64 [B, T]; None where there is no text.
            attention_mask: int64 [B, T], 1 for a token and 0 for padding.
            pixel_values: float32 [F, 3, S, S], frames of P pictures and clips.
            frames: int64 [F], which of the P each is of; a clip's vector is the mean of its frames', each of length 1.
            input_features: float32 [A, 1, frames, mel], of A sounds.

        Returns:
            float32 [B + P + A, H].
        """
        found = []
        if input_ids is not None:
            masked = {} if self._length else {"attention_mask": attention_mask}
            found.append(self.backbone.get_text_features(input_ids=input_ids, **masked).pooler_output.float())
        if pixel_values is not None and frames is not None:
            seen = self.backbone.get_image_features(pixel_values=pixel_values).pooler_output.float()
            found.append(_means(seen, frames))
        if input_features is not None:
            # A tower that sees takes its dtype by itself; one that hears does not.
            heard = input_features.to(next(self.backbone.audio_model.parameters()).dtype)
            found.append(self.backbone.get_audio_features(input_features=heard).pooler_output.float())
        vectors = torch.cat(found)
        return nn.functional.normalize(vectors, dim=-1) if self.normalize else vectors

    def _vectors(self, token_ids: Sequence[Sequence[int]], seen: Any = None) -> Tensor:
        """Vectors of inputs that are a text, a picture, a clip or a sound, in one pass through each tower."""
        places: dict[str, list[int]] = {"read": [], "seen": [], "heard": []}
        items: dict[int, Any] = {}
        for at, each in enumerate(token_ids):
            if isinstance(each, Tokens):
                (items[at],) = each.pictures
            places["read" if at not in items else "heard" if isinstance(items[at], Sound) else "seen"].append(at)
        texts: tuple[Tensor, ...] = self.pad([token_ids[at] for at in places["read"]]) if places["read"] else ()
        given = {}
        if places["seen"]:
            frames = [_frames(items[at]) for at in places["seen"]]
            given["pixel_values"] = self._moved(np.concatenate(frames))
            given["frames"] = self._moved(np.repeat(np.arange(len(frames)), list(map(len, frames))))
        if places["heard"]:
            given["input_features"] = self._moved(np.stack([items[at].features for at in places["heard"]]))
        vectors = self.run(*texts, **given)
        order = torch.tensor([*places["read"], *places["seen"], *places["heard"]], device=vectors.device)
        return vectors[torch.argsort(order)]

    def _moved(self, values: NDArray[Any]) -> Tensor:
        return torch.from_numpy(values).to(self.device, non_blocking=True)

    def learns(self, token_ids: Sequence[Sequence[int]]) -> bool:
        """Whether a tower that these inputs go through is trained in part."""
        kinds = {self._kind(part) for part in merging.spread(token_ids)[0]}
        return any(
            parameter.requires_grad and any(f".{part}." in f".{name}" for kind in kinds for part in _PARTS[kind])
            for name, parameter in self.backbone.named_parameters()
        )

    def reads(self, token_ids: Sequence[Sequence[int]]) -> bool:
        """Whether a text is among these inputs, or among the pieces of one."""
        return any(self._kind(part) == "read" for part in merging.spread(token_ids)[0])

    def blanks(self, token_ids: Sequence[Sequence[int]]) -> list[Tokens]:
        """The empty picture, and silence, for a pass that has nothing for the towers that are not the texts'."""
        lacking = {"seen", "heard"} - {self._kind(part) for part in merging.spread(token_ids)[0]}
        made = {"seen": self._black, "heard": self._silence}
        return [made[kind]() for kind in made if kind in lacking and self._has(kind)]

    def _has(self, kind: str) -> bool:
        return hasattr(self.backbone, _PARTS[kind][0])

    def _kind(self, item: Sequence[int]) -> str:
        """Which tower an input goes through; nothing is decoded for it."""
        if not isinstance(item, Tokens):
            return "read"
        if not (self._has("seen") and self._has("heard")):
            return "seen" if self._has("seen") else "heard"
        heard = isinstance(item.pictures[0], Sound) if item.reader is None else item.media[0].kind == "audio"
        return "heard" if heard else "seen"

    def _black(self) -> Tokens:
        seen = self.backbone.config.vision_config
        pixels = np.zeros((getattr(seen, "num_channels", 3), seen.image_size, seen.image_size), np.float32)
        return Tokens.of([0], [Picture(pixels, (1, 1, 1))])

    def _silence(self) -> Tokens:
        heard = hearing.settings_of(self.backbone.config)
        frames = heard.spec_size * (heard.spec_size // heard.num_mel_bins)  # of the square that the tower folds it to
        silence: Any = Sound(np.zeros((1, frames, heard.num_mel_bins), np.float32), 1)
        return Tokens.of([0], [silence])

    def pad(self, token_ids: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """As :meth:`Retriever.pad`; up to the model's own length where it pools at the last place."""
        if self._length:
            token_ids = [[*ids, *[self.pad_id] * (self._length - len(ids))] for ids in token_ids]
        return super().pad(token_ids)


def _frames(picture: Picture) -> NDArray[np.float32]:
    """float32 [F, 3, S, S]: those of a clip, the one of a picture."""
    return picture.patches if picture.patches.ndim == 4 else picture.patches[None]


def _means(vectors: Tensor, owners: Tensor) -> Tensor:
    """The mean of each clip's frames, which count alike; a picture's vector stays as it is."""
    counts = torch.bincount(owners)
    if int(counts.max()) == 1:
        return vectors
    alike = torch.where(counts[owners].unsqueeze(1) > 1, nn.functional.normalize(vectors, dim=-1), vectors)
    sums = alike.new_zeros((len(counts), vectors.shape[1])).index_add(0, owners, alike)
    return sums / counts.unsqueeze(1)


def _by_itself(hidden: Tensor, mask: Tensor) -> Tensor:
    raise AssertionError("a tower pools by itself")
