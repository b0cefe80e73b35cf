"""The retriever: a transformers backbone, a pooling, and a normalisation. Legend: B texts, T tokens, H hidden size."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

import torch
from teva_data import merging, towers
from teva_data.artifact import Artifact
from teva_data.batching import least_work_batches, token_batches
from teva_data.errors import ArtifactError, RecipeError, TevaError
from teva_data.inputs import Tokens
from teva_data.recipe import Recipe
from torch import Tensor, nn

from . import packing, plugins, short_attention, vision
from .backbones import (
    attention_dropout,
    attention_option,
    checkpoint_gradients,
    load_backbone,
    pad_id,
    tell_capped_scores,
    weight_options,
    without_cache,
)
from .lora import add_lora
from .recipe import torch_section

logger = logging.getLogger(__name__)

# What a pass costs beside its tokens, in tokens: each makes gradients of whole tables of embeddings, and reads all
# weights. Measured for MiniLM on a CPU; for billions of parameters on a GPU it is of the same size.
PASS_TOKENS = 64


class Retriever(nn.Module):
    """Encodes token ids into one vector a text.

    Args:
        backbone: a model of transformers whose output has ``last_hidden_state``.
        pooling: ``(hidden [B, T, H], mask [B, T]) -> [B, H]``.
        normalize: whether vectors get length 1.
        pad_id: the id that fills short rows; masked, so any id of the vocabulary does.

    Attributes:
        apart: whether texts, and what is seen or heard, go through towers of their own.
    """

    apart = False

    def __init__(
        self, backbone: Any, pooling: Callable[[Tensor, Tensor], Tensor], *, normalize: bool, pad_id: int
    ) -> None:
        super().__init__()
        self.backbone, self.pooling = backbone, pooling
        self.normalize, self.pad_id = normalize, pad_id
        # BERT's own pooler stands behind the token vectors, and nothing reads Qwen2.5-Omni's marks of a sound: they are
        # kept for the checkpoint to be whole, not trained.
        for name, parameter in backbone.named_parameters():
            if name.startswith("pooler.") or name.endswith("audio_bos_eos_token.weight"):
                parameter.requires_grad_(False)
        self._options = without_cache(backbone)
        self.packed, self._first_position = False, 0
        # What takes ids and mask to vectors: this module's forward, or an engine that calls it.
        self.run: Callable[..., Tensor] = self.__call__

    @classmethod
    def load(
        cls,
        artifact: Artifact,
        *,
        pooling: str | None = None,
        normalize: bool | None = None,
        dtype: torch.dtype = torch.float32,
        attention: str | None = None,
        bidirectional: bool | None = None,
        device: torch.device | None = None,
        **options: Any,
    ) -> Retriever:
        """The model of an artifact.

        Args:
            artifact: the directory's description.
            pooling: a registered pooling; the artifact's where not given.
            normalize: the artifact's where not given.
            dtype: of the weights.
            attention: transformers' ``attn_implementation``; its own choice where not given.
            bidirectional: whether each token of a decoder sees the whole text; as the model says where not given.
            device: where to put it.
            options: of transformers' ``from_pretrained``.

        Raises:
            ArtifactError: weights that cannot be loaded, or a bare backbone and no pooling given.
            RecipeError: ``bidirectional`` cannot be had of this architecture.
        """
        pooling = pooling or artifact.pooling
        if artifact.pooling == towers.POOLING:
            _expect_towers(artifact, pooling, bidirectional)
        if pooling is None:
            raise ArtifactError(
                f"{artifact.name}: no modules.json, so it does not say how to pool. Set model.pooling in the recipe "
                "(cls or mean for encoders such as BERT, last for decoders such as Llama)"
            )
        function = None if pooling == towers.POOLING else plugins.find(plugins.POOLINGS, pooling, "model.pooling")
        backbone = load_backbone(artifact, dtype=dtype, attention=attention, bidirectional=bidirectional, **options)
        length_1 = artifact.normalize if normalize is None else normalize
        if function is None:
            from .towers import TowerRetriever

            model: Retriever = TowerRetriever(
                backbone, normalize=length_1, pad_id=pad_id(backbone.config.get_text_config())
            )
        else:
            config = backbone.config if hasattr(backbone.config, "pad_token_id") else backbone.config.get_text_config()
            model = cls(backbone, function, pad_id=pad_id(config), normalize=length_1)
        return model.to(device or torch.device("cpu"))

    @classmethod
    def for_training(
        cls, base: Artifact, recipe: Recipe, device: torch.device, place: torch.device | None = None
    ) -> Retriever:
        """The model that a recipe trains.

        Args:
            base: what ``model.name`` names.
            recipe: resolved: pooling and normalisation are set.
            device: where it is trained.
            place: where to put it for now, where that is another place.

        Raises:
            ArtifactError: weights that cannot be loaded.
            RecipeError: settings that this architecture or this device does not have.
        """
        settings, options = recipe.model, torch_section(recipe)
        model = cls.load(
            base, pooling=settings.pooling, normalize=settings.normalize,
            attention=attention_option(options.attention, device), bidirectional=settings.bidirectional,
            device=place or device, **weight_options(options.weights, device),
        )  # fmt: skip
        tell_capped_scores(model.backbone.config)
        if options.attention == "auto" and short_attention.pays(
            model.backbone, device, torch.bfloat16 if recipe.train.precision == "bfloat16" else torch.float32
        ):
            model.backbone.set_attn_implementation(short_attention.register())
        if options.attention == "varlen":
            half = "bfloat16" in (recipe.train.precision, options.weights) or options.weights == "nf4"
            model.pack(torch.bfloat16 if half else torch.float32, device)
        if options.gradient_checkpointing:
            checkpoint_gradients(model.backbone)
        if options.freeze_vision:
            vision.freeze_tower(model.backbone)
        if options.freeze_audio:
            vision.freeze_audio(model.backbone)
        if options.freeze_text:
            vision.freeze_text(model.backbone)
        if options.lora is not None:
            model.backbone = add_lora(model.backbone, options.lora)
        return model

    def pack(self, dtype: torch.dtype, device: torch.device | None = None) -> bool:
        """Run texts through the backbone as one row without padding, where this device can; says why where it cannot.

        Args:
            dtype: in which attention is computed.
            device: where; where the weights are now, if not given.

        Returns:
            Whether it does.
        """
        if reason := packing.why_not(self.backbone, device or self.device, dtype):
            logger.warning("torch.attention: varlen: %s. Texts of like length go together instead", reason)
            return False
        dropout = attention_dropout(self.backbone.config)
        if dropout:
            logger.warning("varlen attention has no dropout: the model's own of %s is off in its attention", dropout)
        self.backbone.set_attn_implementation(packing.register())
        self.packed, self._first_position = True, packing.first_position(self.backbone)
        return True

    def of(self, role: str) -> Retriever:
        """What encodes a role: this model; a pair has one for each."""
        return self

    @property
    def dim(self) -> int:
        """Numbers in a vector."""
        return int(self.backbone.config.get_text_config().hidden_size)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def forward(self, input_ids: Tensor, attention_mask: Tensor, **pictures: Any) -> Tensor:
        """Vectors of padded token ids.

        Args:
            input_ids: int64 [B, T].
            attention_mask: int64 [B, T], 1 for a token and 0 for padding.
            pictures: of the inputs, under transformers' names (:func:`teva_torch.vision.arguments`).

        Returns:
            float32 [B, H].
        """
        if self.packed:
            packed = packing.Packed.of(input_ids, attention_mask, self._first_position)
            row = self.backbone(
                input_ids=packed.ids, position_ids=packed.positions, **packed.arguments, **self._options
            )
            vectors = packed.pool(self.pooling, row.last_hidden_state[0])
        else:
            padded = self.backbone(input_ids=input_ids, attention_mask=attention_mask, **pictures, **self._options)
            vectors = self.pooling(padded.last_hidden_state, attention_mask)
        return nn.functional.normalize(vectors.float(), dim=-1) if self.normalize else vectors.float()

    def vectors(self, token_ids: Sequence[Sequence[int]], seen: Any = None) -> Tensor:
        """Vectors of token ids of any lengths in one forward pass: float32 [B, H], in the input's order.

        Of a record whose pieces are inputs of their own (:class:`teva_data.inputs.PieceTokens`) it is the mean of
        their vectors, of length 1 where vectors have it.

        ``seen`` is what the tower that sees has put out for their pictures (:func:`teva_torch.vision.watched`), where
        it is not to run again.

        Raises:
            TevaError: a text without a token, where there is no padding that could stand for it.
        """
        parts, which = merging.spread(token_ids)
        vectors = self._vectors(parts, seen)
        if len(parts) == len(token_ids):
            return vectors
        owners = torch.from_numpy(which).to(vectors.device)
        sums = vectors.new_zeros((len(token_ids), vectors.shape[1])).index_add(0, owners, vectors)
        means = sums / torch.bincount(owners).unsqueeze(1)
        return nn.functional.normalize(means, dim=-1) if self.normalize else means

    def _vectors(self, token_ids: Sequence[Sequence[int]], seen: Any = None) -> Tensor:
        """Vectors of inputs that are one sequence each."""
        if self.packed and not all(token_ids):
            raise TevaError(
                "a text has no tokens, and its tokenizer adds none. Set model.append_eos: true, or torch.attention: "
                "sdpa"
            )
        ids, mask = self.pad(token_ids)
        return self.run(ids, mask, **vision.arguments(self.backbone, token_ids, ids, seen))

    def learns(self, token_ids: Sequence[Sequence[int]]) -> bool:
        """Whether a gradient of these inputs' vectors reaches a weight that is trained."""
        return True

    def reads(self, token_ids: Sequence[Sequence[int]]) -> bool:
        """Whether these inputs go through what reads texts: all do, where it is no tower of its own."""
        return True

    def blanks(self, token_ids: Sequence[Sequence[int]]) -> list[Tokens]:
        """Inputs of a few tokens that show a pass what it lacks, so that it goes through all that sees and hears.

        Args:
            token_ids: the pass so far.
        """
        return vision.blanks(self.backbone, token_ids)

    def chunks(self, lengths: Sequence[int], chunk_tokens: int, *, full: bool = False) -> list[NDArray[np.int64]]:
        """What goes through the backbone in one forward pass: positions in ``lengths``, of like length together.

        Args:
            lengths: tokens of each text.
            chunk_tokens: tokens of one forward pass, padding included where there is any.
            full: fill each to the bound, whatever is padded: few passes. Otherwise passes and padding are weighed.
        """
        if self.packed:
            return packing.packed_batches(lengths, chunk_tokens)
        return token_batches(lengths, chunk_tokens) if full else least_work_batches(lengths, chunk_tokens, PASS_TOKENS)

    def encode(self, token_ids: Sequence[Sequence[int]], *, chunk_tokens: int) -> Tensor:
        """Vectors of token ids of any lengths, texts of like length together; the order is that of the input.

        Args:
            token_ids: B lists of ids, special tokens included.
            chunk_tokens: tokens of one forward pass, padding included.

        Returns:
            float32 [B, H], with gradients where they are enabled.
        """
        chunks = self.chunks([len(ids) for ids in token_ids], chunk_tokens)
        vectors = torch.cat([self.vectors([token_ids[at] for at in chunk]) for chunk in chunks])
        order = torch.cat([torch.from_numpy(chunk) for chunk in chunks]).to(vectors.device)
        return vectors[torch.argsort(order)]

    def pad(self, token_ids: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Ids and mask, both int64 [B, T], padded on the right, on the model's device."""
        longest = max(len(ids) for ids in token_ids)
        ids = np.full((len(token_ids), longest), self.pad_id, dtype=np.int64)
        mask = np.zeros((len(token_ids), longest), dtype=np.int64)
        for row, tokens in enumerate(token_ids):
            ids[row, : len(tokens)] = tokens
            mask[row, : len(tokens)] = 1
        return self._there(ids), self._there(mask)

    def _there(self, numbers: NDArray[np.int64]) -> Tensor:
        """Numbers on the model's device; from pinned memory a GPU takes them while it works on something else."""
        tensor = torch.from_numpy(numbers)
        tensor = tensor.pin_memory() if self.device.type == "cuda" else tensor
        return tensor.to(self.device, non_blocking=True)


def _expect_towers(artifact: Artifact, pooling: str | None, bidirectional: bool | None) -> None:
    """Refuse what a model with two towers has of its own."""
    if pooling != towers.POOLING:
        raise RecipeError(
            f"model.pooling: {artifact.name} has two towers, each with a pooling of its own; found {pooling}. Leave it "
            "out"
        )
    if bidirectional is not None:
        raise RecipeError(f"model.bidirectional: {artifact.name} has two towers, which read as they do. Leave it out")
