"""Texts of any lengths as one row without padding. Legend: B texts, T tokens of the longest, N tokens in all, H hidden.

The backbone sees one row of N tokens whose positions begin anew with each text, and an attention function, entered in
transformers' registry, that keeps the texts apart: torch's own varlen attention. What goes in and comes out is as for
padded rows, so pooling and loss know nothing of it.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

import torch
from torch import Tensor

from .pooling import cls_pooling, last_pooling, mean_pooling

NAME = "teva_varlen"
_MAJOR = 8  # of a GPU's compute capability: flash attention needs Ampere


@dataclasses.dataclass(frozen=True)
class Packed:
    """Padded rows as one row.

    Attributes:
        ids: int64 [1, N].
        positions: int64 [1, N], of each token in its text.
        mask: int64 [B, T], where the tokens stood.
        ends: int32 [B + 1], where in the row each text begins; N at last.
    """

    ids: Tensor
    positions: Tensor
    mask: Tensor
    ends: Tensor

    @classmethod
    def of(cls, ids: Tensor, mask: Tensor, first_position: int = 0) -> Packed:
        """Take the padding out.

        Args:
            ids: int64 [B, T], padded on any side.
            mask: int64 [B, T], 1 for a token and 0 for padding; a token in each row.
            first_position: of a text's first token (RoBERTa and its like do not begin at 0).
        """
        keep = mask.bool()
        ends = torch.nn.functional.pad(mask.sum(dim=1).cumsum(dim=0), (1, 0)).to(torch.int32)
        return cls(ids[keep][None], (mask.cumsum(dim=1) - 1 + first_position)[keep][None], mask, ends)

    @property
    def arguments(self) -> dict[str, Any]:
        """What the backbone hands on to its attention, under transformers' names."""
        longest = self.mask.shape[1]
        return {
            "cu_seq_lens_q": self.ends, "cu_seq_lens_k": self.ends, "max_length_q": longest, "max_length_k": longest,
        }  # fmt: skip

    def pool(self, pooling: Callable[[Tensor, Tensor], Tensor], hidden: Tensor) -> Tensor:
        """``pooling`` over each text.

        Args:
            pooling: ``(hidden [B, T, H], mask [B, T]) -> [B, H]``. For those of teva-torch no padding is made; any
                other gets padded rows.
            hidden: [N, H].
        """
        own = _POOLINGS.get(pooling)
        return pooling(self.unpack(hidden), self.mask) if own is None else own(hidden, self.ends)

    def unpack(self, hidden: Tensor) -> Tensor:
        """Token vectors [N, H] where their tokens stood, 0 elsewhere: [B, T, H]."""
        rows, longest = self.mask.shape
        places = self.mask.flatten().nonzero()[:, 0]
        padded = hidden.new_zeros(rows * longest, hidden.shape[1]).index_copy(0, places, hidden)
        return padded.view(rows, longest, -1)


def _mean(hidden: Tensor, ends: Tensor) -> Tensor:
    # Sums of bfloat16 would lose a long text's last digits.
    return torch.segment_reduce(hidden.float(), "mean", lengths=ends.diff().long(), axis=0)


_POOLINGS: dict[Callable[..., Tensor], Callable[[Tensor, Tensor], Tensor]] = {
    cls_pooling: lambda hidden, ends: hidden[ends[:-1].long()],
    last_pooling: lambda hidden, ends: hidden[ends[1:].long() - 1],
    mean_pooling: _mean,
}


def packed_batches(lengths: Sequence[int], max_tokens: int) -> list[NDArray[np.int64]]:
    """Split sequences into batches of at most ``max_tokens`` tokens in all, longest first.

    Args:
        lengths: tokens of each sequence [N].
        max_tokens: bound on the sum of a batch's lengths; one sequence longer than it is a batch.

    Returns:
        Arrays of positions that together hold 0..N-1 once each.
    """
    sizes = np.asarray(lengths, dtype=np.int64)
    order = np.argsort(-sizes, kind="stable")
    sums = np.cumsum(sizes[order])
    batches, start = list[NDArray[np.int64]](), 0
    while start < len(order):
        before = sums[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(sums, before + max_tokens, side="right")))
        batches.append(order[start:stop])
        start = stop
    return batches


def attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    kernel: Callable[..., Tensor],
    scaling: float | None = None,
    is_causal: bool | None = None,
    sliding_window: int | None = None,
    cu_seq_lens_q: Tensor | None = None,
    max_length_q: int | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention within each packed text, as transformers calls it.

    Args:
        module: the layer's attention.
        query: [1, heads, N, width]; ``key`` and ``value`` may have fewer heads.
        key: see ``query``.
        value: see ``query``.
        attention_mask: None; what may be seen follows from the rest.
        kernel: ``torch.nn.attention.varlen.varlen_attn``, or what takes the same arguments.
        scaling: of the scores.
        is_causal: whether a token sees only what stands before it; as the module says where not given.
        sliding_window: the layer's window in transformers' count; None for none.
        cu_seq_lens_q: int32 [B + 1].
        max_length_q: of the longest text.

    Returns:
        [1, N, heads, width], and no weights.
    """
    if cu_seq_lens_q is None or max_length_q is None:
        raise RuntimeError(f"{type(module).__name__} was not told where the packed texts end")
    causal = module.is_causal if is_causal is None else is_causal
    rows = [states[0].transpose(0, 1) for states in (query, key, value)]
    if torch.is_autocast_enabled(query.device.type):
        # Rotation by float32 angles makes float32 of what autocast had made bfloat16.
        rows = [states.to(torch.get_autocast_dtype(query.device.type)) for states in rows]
    result = kernel(
        *rows, cu_seq_lens_q, cu_seq_lens_q, max_length_q, max_length_q,
        scale=scaling, window_size=_window(module.config, causal, sliding_window),
        enable_gqa=key.shape[1] != query.shape[1],
    )  # fmt: skip
    return result[None], None


def _window(config: Any, causal: bool, sliding_window: int | None) -> tuple[int, int]:
    """How many tokens before and after itself a token sees, -1 for all: as the masks of transformers have it."""
    if sliding_window is None:
        return (-1, 0) if causal else (-1, -1)
    if causal:
        return sliding_window - 1, 0
    # To both sides the window counts in full, but for Gemma 3, which has a mask of its own.
    around = config.sliding_window - (config.model_type == "gemma3_text")
    return around, around


def register(kernel: Callable[..., Tensor] | None = None) -> str:
    """Enter the attention function in transformers' registry; returns its name.

    Args:
        kernel: torch's varlen attention where not given.
    """
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, partial(attention, kernel=kernel or _torch_kernel()))
    return NAME


def why_not(backbone: Any, device: torch.device, dtype: torch.dtype) -> str | None:
    """Why a backbone cannot be run packed here; None where it can.

    Args:
        backbone: a model of transformers.
        device: where it computes.
        dtype: in which it computes.
    """
    config = backbone.config
    if hasattr(config, "vision_config"):
        return f"{config.model_type} counts positions in a picture by rows and columns, which packing does not"
    if device.type != "cuda" or torch.cuda.get_device_capability(device)[0] < _MAJOR:
        return f"torch has varlen attention for newer GPUs alone, not for {device.type}"
    if dtype not in (torch.bfloat16, torch.float16):
        return "varlen attention is computed in bfloat16: set train.precision bfloat16"
    if getattr(config, "attn_logit_softcapping", None) is not None:
        return f"{config.model_type} caps the scores of its attention, which varlen attention does not"
    return None if _can_pack(backbone) else f"{config.model_type} does not hand its attention what packing needs"


def _can_pack(backbone: Any) -> bool:
    return bool(getattr(backbone, "_supports_attention_backend", False))


def first_position(backbone: Any) -> int:
    """The position of a text's first token: that of RoBERTa and its like stands behind the padding's."""
    embeddings: Any = getattr(backbone, "embeddings", None)
    return int(embeddings.padding_idx) + 1 if hasattr(embeddings, "create_position_ids_from_input_ids") else 0


def _torch_kernel() -> Callable[..., Tensor]:
    from torch.nn.attention.varlen import varlen_attn

    kernel: Callable[..., Any] = varlen_attn
    return kernel if "enable_gqa" in inspect.signature(kernel).parameters else _with_as_many_heads(kernel)


def _with_as_many_heads(kernel: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A kernel that wants as many heads of keys as of queries (torch before 2.12): theirs are repeated for it."""

    def attend(query: Tensor, key: Tensor, value: Tensor, *rest: Any, enable_gqa: bool, **options: Any) -> Tensor:
        if enable_gqa:
            times = query.shape[1] // key.shape[1]
            key, value = key.repeat_interleave(times, 1), value.repeat_interleave(times, 1)
        return kernel(query, key, value, *rest, **options)

    return attend
