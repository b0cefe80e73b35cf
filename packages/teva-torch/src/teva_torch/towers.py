"""The retriever of a model with two towers (CLIP, SigLIP): a text goes through one, a picture through the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

import torch
from teva_data import merging, towers
from teva_data.pictures import Tokens
from torch import Tensor, nn

from .model import Retriever

# What transformers calls the parts of the two towers.
_READS = ("text_model", "text_projection")
_SEES = ("vision_model", "visual_projection")


class TowerRetriever(Retriever):
    """Encodes texts and pictures by the two towers of one model, each with its own pooling, into one space.

    Args:
        backbone: a model of transformers with ``get_text_features`` and ``get_image_features``.
        normalize: whether vectors get length 1.
        pad_id: the id that fills short rows.
    """

    def __init__(self, backbone: Any, *, normalize: bool, pad_id: int) -> None:
        super().__init__(backbone, _by_itself, normalize=normalize, pad_id=pad_id)
        self._length = towers.fixed_length(backbone.config.to_dict())
        # The contrastive loss's own scale: the recipe's temperature stands in its place.
        for name, parameter in backbone.named_parameters():
            if name in ("logit_scale", "logit_bias"):
                parameter.requires_grad_(False)

    @property
    def dim(self) -> int:
        """Numbers in a vector."""
        return towers.dim(self.backbone.config.to_dict())

    def pack(self, dtype: torch.dtype, device: torch.device | None = None) -> bool:
        """Texts are padded: a tower pools by itself, which knows of no packing."""
        return False

    def forward(
        self, input_ids: Tensor | None = None, attention_mask: Tensor | None = None, **pictures: Tensor
    ) -> Tensor:
        """Vectors of padded token ids, then those of pictures.

        Args:
            input_ids: int64 [B, T]; None where there is no text.
            attention_mask: int64 [B, T], 1 for a token and 0 for padding.
            pictures: ``pixel_values`` float32 [P, 3, S, S], where there are some.

        Returns:
            float32 [B + P, H].
        """
        found = []
        if input_ids is not None:
            masked = {} if self._length else {"attention_mask": attention_mask}
            found.append(self.backbone.get_text_features(input_ids=input_ids, **masked).pooler_output)
        if pictures:
            found.append(self.backbone.get_image_features(**pictures).pooler_output)
        vectors = torch.cat([each.float() for each in found])
        return nn.functional.normalize(vectors, dim=-1) if self.normalize else vectors

    def _vectors(self, token_ids: Sequence[Sequence[int]], seen: Any = None) -> Tensor:
        """Vectors of inputs that are a text or a picture each, in one pass through each tower that has some."""
        pictured = [at for at, each in enumerate(token_ids) if isinstance(each, Tokens)]
        read = [at for at, each in enumerate(token_ids) if not isinstance(each, Tokens)]
        texts: tuple[Tensor, ...] = self.pad([token_ids[at] for at in read]) if read else ()
        pictures = {}
        if pictured:
            shown = [each for each in token_ids if isinstance(each, Tokens)]
            pixels = np.stack([one.patches for each in shown for one in each.pictures])
            pictures = {"pixel_values": torch.from_numpy(pixels).to(self.device, non_blocking=True)}
        vectors = self.run(*texts, **pictures)
        order = torch.tensor([*read, *pictured], device=vectors.device)
        return vectors[torch.argsort(order)]

    def learns(self, token_ids: Sequence[Sequence[int]]) -> bool:
        """Whether a tower that these inputs go through is trained in part."""
        parts, _ = merging.spread(token_ids)
        kinds = {_SEES if isinstance(each, Tokens) else _READS for each in parts}
        return any(
            parameter.requires_grad and any(f".{part}." in f".{name}" for kind in kinds for part in kind)
            for name, parameter in self.backbone.named_parameters()
        )

    def pad(self, token_ids: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """As :meth:`Retriever.pad`; up to the model's own length where it pools at the last place."""
        if self._length:
            token_ids = [[*ids, *[self.pad_id] * (self._length - len(ids))] for ids in token_ids]
        return super().pad(token_ids)


def _by_itself(hidden: Tensor, mask: Tensor) -> Tensor:
    raise AssertionError("a tower pools by itself")
