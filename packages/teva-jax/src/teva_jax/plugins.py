"""The entry points under which losses and poolings for JAX are registered."""

from __future__ import annotations

from teva_data.plugins import find

__all__ = ["LOSSES", "POOLINGS", "find"]

LOSSES, POOLINGS = "teva_jax.losses", "teva_jax.poolings"
