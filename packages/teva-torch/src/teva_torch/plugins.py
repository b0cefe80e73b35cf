"""The entry points under which losses and poolings for torch are registered."""

from __future__ import annotations

from teva_data.plugins import find

__all__ = ["LOSSES", "POOLINGS", "find"]

LOSSES, POOLINGS = "teva_torch.losses", "teva_torch.poolings"
