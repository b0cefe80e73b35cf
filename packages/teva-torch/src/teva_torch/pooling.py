"""Poolings: from one vector a token to one vector a text. Legend: B texts, T tokens, H hidden size.

Each takes ``hidden`` [B, T, H] and ``mask`` [B, T] (1 for a token, 0 for padding) and returns [B, H]. None depends on
the side that is padded.
"""

from __future__ import annotations

import torch
from torch import Tensor


def cls_pooling(hidden: Tensor, mask: Tensor) -> Tensor:
    """The first token's vector."""
    first = mask.to(torch.int64).argmax(dim=1)
    return hidden[torch.arange(len(hidden), device=hidden.device), first]


def mean_pooling(hidden: Tensor, mask: Tensor) -> Tensor:
    """The mean over the tokens, computed in the precision of ``hidden``."""
    weight = mask.unsqueeze(-1).to(hidden.dtype)
    return (hidden * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1e-9)


def last_pooling(hidden: Tensor, mask: Tensor) -> Tensor:
    """The last token's vector, found in each row on its own."""
    length = mask.shape[1]
    last = length - 1 - mask.to(torch.int64).flip(dims=(1,)).argmax(dim=1)
    return hidden[torch.arange(len(hidden), device=hidden.device), last]
