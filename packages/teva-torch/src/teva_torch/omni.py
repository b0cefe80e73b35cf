"""Qwen2.5-Omni as a backbone: texts, pictures, clips and sounds as one sequence of token vectors.

It is the part of the published model that reads, sees and hears (the thinker), without its head: the head's logits over
150,000 tokens would take more memory than all else, and nothing here reads them.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

import torch
from teva_data.inputs import Tokens
from teva_data.omni import Marks, Places
from teva_data.pictures import Picture
from teva_data.sounds import Sound
from torch import Tensor, nn

ARCHITECTURE = "Qwen2_5OmniThinkerForConditionalGeneration"
"""What transformers calls the whole of it, head included."""


@functools.cache
def model_class() -> Any:
    """transformers' class without the head, whose pass ends with the token vectors."""
    from transformers import Qwen2_5OmniThinkerForConditionalGeneration
    from transformers.modeling_outputs import BaseModelOutput

    class OmniThinker(Qwen2_5OmniThinkerForConditionalGeneration):  # type: ignore[misc]
        """See the module. Its two towers run at most once a pass each, whatever kinds of media the pass has."""

        _tied_weights_keys: ClassVar[dict[str, str]] = {}
        _keys_to_ignore_on_load_unexpected = (r"(^|\.)lm_head\.", r"^talker\.", r"^token2wav\.")

        def __init__(self, config: Any) -> None:
            super().__init__(config)
            del self.lm_head
            self.kept: list[dict[str, Tensor]] | None = None  # what the towers put out, where it is asked for

        def get_output_embeddings(self) -> None:
            return None

        def forward(
            self,
            input_ids: Tensor,
            attention_mask: Tensor,
            position_ids: Tensor | None = None,
            pixel_values: Tensor | None = None,
            grid_thw: Tensor | None = None,
            input_features: Tensor | None = None,
            feature_lens: Tensor | None = None,
            mm_encoder_outputs: Mapping[str, Tensor] | None = None,
            use_cache: bool | None = None,
            **_: Any,
        ) -> Any:
            """Token vectors of padded inputs.

            Args:
                input_ids: int64 [B, T].
                attention_mask: int64 [B, T].
                position_ids: int64 [3, B, T]; counted in the text's order where not given.
                pixel_values: float32 [P, C], of pictures and clips in their order.
                grid_thw: int64 [pictures and clips, 3].
                input_features: float32 [mel, frames], of sounds one after another.
                feature_lens: int64 [sounds], frames of each.
                mm_encoder_outputs: what the towers have put out already: ``vision`` [tokens, H], ``audio`` likewise.
                use_cache: False.
                _: what peft hands on of a general model, which it has not been given.
            """
            vectors = self.get_input_embeddings()(input_ids)
            seen = dict(mm_encoder_outputs or {})
            if pixel_values is not None:
                seen["vision"] = self.visual(pixel_values.type(self.visual.dtype), grid_thw=grid_thw).pooler_output
            if input_features is not None:
                seen["audio"] = self.audio_tower(input_features, feature_lens=feature_lens).last_hidden_state
            config = self.config
            marks = {"vision": (config.image_token_id, config.video_token_id), "audio": (config.audio_token_id,)}
            for kind, found in seen.items():
                places = torch.isin(input_ids, torch.tensor(marks[kind], device=input_ids.device)).unsqueeze(-1)
                vectors = vectors.masked_scatter(places, found.to(vectors.dtype))
            if self.kept is not None:
                self.kept.append(seen)
            return BaseModelOutput(
                self.model(
                    inputs_embeds=vectors, attention_mask=attention_mask, position_ids=position_ids, use_cache=False
                ).last_hidden_state
            )

    return OmniThinker


def part_of(backbone: nn.Module) -> Any:
    """The model within an adapter's wrapping; None where the backbone is another."""
    if getattr(backbone.config, "model_type", None) != "qwen2_5_omni_thinker":
        return None
    return next((each for each in backbone.modules() if isinstance(each, model_class())), None)


def arguments(
    backbone: Any, token_ids: Sequence[Sequence[int]], ids: Tensor, seen: Mapping[str, Tensor] | None
) -> dict[str, Any]:
    """What the model takes of a batch's media; nothing where it has none. See :func:`teva_torch.vision.arguments`."""
    items = [list(each.pictures) if isinstance(each, Tokens) else [] for each in token_ids]
    if not any(items):
        return {}
    given, seen = dict[str, Any](), seen or {}
    shown = [one for each in items for one in each if isinstance(one, Picture)]
    heard = (one if isinstance(one, Sound) else getattr(one, "sound", None) for each in items for one in each)
    sounds: list[Sound] = [one for one in heard if one is not None]
    if shown and "vision" not in seen:
        from .vision import patches

        grids = torch.tensor([picture.grid for picture in shown], device=ids.device)
        given |= {"pixel_values": patches(shown, ids.device), "grid_thw": grids}
    if sounds and "audio" not in seen:
        features = torch.from_numpy(np.concatenate([one.features for one in sounds], axis=1))
        lengths = torch.tensor([one.features.shape[1] for one in sounds], device=ids.device)
        given |= {"input_features": features.to(ids.device, non_blocking=True), "feature_lens": lengths}
    if seen:
        given["mm_encoder_outputs"] = seen
    return {**given, "position_ids": positions(backbone, token_ids, items, ids)}


def positions(backbone: Any, token_ids: Sequence[Sequence[int]], items: Sequence[Sequence[Any]], ids: Tensor) -> Tensor:
    """Positions in time, by row and by column: int64 [3, B, T]; those of padding are 1."""
    config = backbone.config
    places = Places(
        Marks.of(config.to_dict()), int(config.vision_config.spatial_merge_size),
        (float(config.position_id_per_seconds), float(config.seconds_per_chunk)),
    )  # fmt: skip
    found = np.ones((3, *ids.shape), dtype=np.int64)
    for row, (tokens, each) in enumerate(zip(token_ids, items, strict=True)):
        found[:, row, : len(tokens)] = places.positions(tokens, each)
    return torch.from_numpy(found).to(ids.device, non_blocking=True)


def blank(config: Any, *, vision: bool, audio: bool) -> Tokens:
    """An input that is the smallest picture there is, the shortest sound there is, or both; a token each."""
    marks, ids, items = Marks.of(config.to_dict()), list[int](), list[Any]()
    if vision:
        seen = config.vision_config
        side, numbers = seen.spatial_merge_size, seen.in_channels * seen.temporal_patch_size * seen.patch_size**2
        ids += [marks.vision_begin, marks.image, marks.vision_end]
        items.append(Picture(np.zeros((side * side, numbers), np.float32), (1, side, side)))
    if audio:
        ids += [marks.audio_begin, marks.audio, marks.audio_end]
        items.append(Sound(np.zeros((config.audio_config.num_mel_bins, 4), np.float32), 1))
    return Tokens.of(ids, items)
