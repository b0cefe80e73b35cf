"""A pooling: the mean of the first and the last token's vectors. Legend: B texts, T tokens, H hidden size."""

from __future__ import annotations

from teva_torch.pooling import cls_pooling, last_pooling
from torch import Tensor


def ends_pooling(hidden: Tensor, mask: Tensor) -> Tensor:
    """Takes hidden [B, T, H] and mask [B, T] (0 for padding, on either side), gives [B, H]."""
    return (cls_pooling(hidden, mask) + last_pooling(hidden, mask)) / 2
