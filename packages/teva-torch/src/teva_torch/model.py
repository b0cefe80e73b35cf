"""The retriever: a transformers backbone, a pooling, and a normalisation. Legend: B texts, T tokens, H hidden size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from teva_data.artifact import Artifact
from teva_data.batching import token_batches
from teva_data.errors import ArtifactError
from torch import Tensor, nn

from . import plugins


class Retriever(nn.Module):
    """Encodes token ids into one vector a text.

    Args:
        backbone: a model of transformers whose output has ``last_hidden_state``.
        pooling: ``(hidden [B, T, H], mask [B, T]) -> [B, H]``.
        normalize: whether vectors get length 1.
        pad_id: the id that fills short rows; masked, so any id of the vocabulary does.
    """

    def __init__(
        self, backbone: Any, pooling: Callable[[Tensor, Tensor], Tensor], *, normalize: bool, pad_id: int
    ) -> None:
        super().__init__()
        self.backbone, self.pooling = backbone, pooling
        self.normalize, self.pad_id = normalize, pad_id
        # BERT's own pooler stands behind the token vectors: it is kept for the checkpoint to be whole, not trained.
        for name, parameter in backbone.named_parameters():
            if name.startswith("pooler."):
                parameter.requires_grad_(False)

    @classmethod
    def load(
        cls,
        artifact: Artifact,
        *,
        pooling: str | None = None,
        normalize: bool | None = None,
        dtype: torch.dtype = torch.float32,
        attention: str | None = None,
        device: torch.device | None = None,
    ) -> Retriever:
        """The model of an artifact.

        Args:
            artifact: the directory's description.
            pooling: a registered pooling; the artifact's where not given.
            normalize: the artifact's where not given.
            dtype: of the weights.
            attention: transformers' ``attn_implementation``; its own choice where not given.
            device: where to put it.

        Raises:
            ArtifactError: weights that cannot be loaded, or a bare backbone and no pooling given.
        """
        from transformers import AutoModel
        from transformers.utils import logging as transformers_logging

        transformers_logging.disable_progress_bar()
        pooling = pooling or artifact.pooling
        if pooling is None:
            raise ArtifactError(
                f"{artifact.name}: no modules.json, so it does not say how to pool. Set model.pooling in the recipe "
                "(cls or mean for encoders such as BERT, last for decoders such as Llama)"
            )
        function = plugins.find(plugins.POOLINGS, pooling, "model.pooling")
        chosen = {} if attention is None else {"attn_implementation": attention}
        try:
            backbone, report = AutoModel.from_pretrained(
                str(artifact.path), dtype=dtype, local_files_only=True, output_loading_info=True, **chosen
            )
        except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
            raise ArtifactError(f"{artifact.path}: the model cannot be loaded: {error}") from error
        missing = [name for name in report["missing_keys"] if not name.startswith("pooler.")]
        if missing:
            raise ArtifactError(
                f"{artifact.path}: the weights lack {len(missing)} of the model's tensors, first {min(missing)!r}; "
                "they would be random. Fetch or export the model again"
            )
        if backbone.config.is_encoder_decoder:
            raise ArtifactError(
                f"{artifact.path}: found an encoder-decoder ({backbone.config.model_type}); expected an encoder or a "
                "decoder"
            )
        pad_id = getattr(backbone.config, "pad_token_id", None)
        if pad_id is None:
            eos = getattr(backbone.config, "eos_token_id", None)
            pad_id = (eos[0] if isinstance(eos, list) else eos) or 0
        model = cls(
            backbone, function, normalize=artifact.normalize if normalize is None else normalize, pad_id=int(pad_id)
        )
        return model.to(device or torch.device("cpu"))

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Vectors of padded token ids.

        Args:
            input_ids: int64 [B, T].
            attention_mask: int64 [B, T], 1 for a token and 0 for padding.

        Returns:
            float32 [B, H].
        """
        hidden = self.backbone(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        vectors = self.pooling(hidden, attention_mask).float()
        return nn.functional.normalize(vectors, dim=-1) if self.normalize else vectors

    def encode(self, token_ids: Sequence[Sequence[int]], *, chunk_tokens: int) -> Tensor:
        """Vectors of token ids of any lengths, texts of like length together; the order is that of the input.

        Args:
            token_ids: B lists of ids, special tokens included.
            chunk_tokens: tokens of one forward pass, padding included.

        Returns:
            float32 [B, H], with gradients where they are enabled.
        """
        chunks = token_batches([len(ids) for ids in token_ids], chunk_tokens)
        vectors = torch.cat([self(*self.pad([token_ids[at] for at in chunk])) for chunk in chunks])
        order = torch.cat([torch.from_numpy(chunk) for chunk in chunks]).to(vectors.device)
        return vectors[torch.argsort(order)]

    def pad(self, token_ids: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Ids and mask, both int64 [B, T], padded on the right, on the model's device."""
        longest = max(len(ids) for ids in token_ids)
        ids = torch.full((len(token_ids), longest), self.pad_id, dtype=torch.int64)
        mask = torch.zeros((len(token_ids), longest), dtype=torch.int64)
        for row, tokens in enumerate(token_ids):
            ids[row, : len(tokens)] = torch.as_tensor(tokens)
            mask[row, : len(tokens)] = 1
        return ids.to(self.device, non_blocking=True), mask.to(self.device, non_blocking=True)
