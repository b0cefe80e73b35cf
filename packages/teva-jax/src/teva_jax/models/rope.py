"""Rotary position embeddings (Su et al., "RoFormer", arXiv 2104.09864) and the ways in which they are stretched."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

import jax
from teva_data.errors import ArtifactError


def frequencies(parameters: Mapping[str, Any], size: int) -> tuple[NDArray[np.float32], float]:
    """Radians by position of each pair of components, and what cosines and sines are multiplied by.

    Args:
        parameters: one entry of ``rope_parameters`` in config.json.
        size: components of a head.

    Raises:
        ArtifactError: a kind that is not known here.
    """
    kind = parameters.get("rope_type", "default")
    if kind not in _STRETCH or parameters.get("partial_rotary_factor", 1.0) != 1.0:
        raise ArtifactError(
            f"config.json: rope_parameters: found {dict(parameters)}; expected a rope_type of {', '.join(_STRETCH)}, "
            "of all components"
        )
    plain = 1.0 / parameters["rope_theta"] ** (np.arange(0, size, 2, dtype=np.float64) / size)
    found, factor = _STRETCH[kind](plain, parameters, size)
    return found.astype(np.float32), factor


def tables(parameters: Mapping[str, Any], size: int, length: int) -> tuple[jax.Array, jax.Array]:
    """Cosines and sines of positions 0 to ``length``: float32 [T, size / 2] each."""
    turns, factor = frequencies(parameters, size)
    angles = jnp.arange(length, dtype=jnp.float32)[:, None] * turns
    return jnp.cos(angles) * factor, jnp.sin(angles) * factor


def rotate(x: jax.Array, cosine: jax.Array, sine: jax.Array) -> jax.Array:
    """Turn each pair (i, i + size / 2) of the components of ``x`` [B, T, N, size] by its angle."""
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    cosine, sine = cosine[:, None], sine[:, None]
    turned = jnp.concatenate([first * cosine - second * sine, second * cosine + first * sine], axis=-1)
    return turned.astype(x.dtype)


Stretched = tuple[NDArray[np.float64], float]


def _default(plain: NDArray[np.float64], parameters: Mapping[str, Any], size: int) -> Stretched:
    del parameters, size
    return plain, 1.0


def _linear(plain: NDArray[np.float64], parameters: Mapping[str, Any], size: int) -> Stretched:
    del size
    return plain / parameters["factor"], 1.0


def _llama3(plain: NDArray[np.float64], parameters: Mapping[str, Any], size: int) -> Stretched:
    """Llama 3.1: long waves are stretched, short ones kept, those between blended."""
    del size
    waves = 2 * math.pi / plain
    low, high = parameters["low_freq_factor"], parameters["high_freq_factor"]
    context = parameters["original_max_position_embeddings"]
    share = np.clip((context / waves - low) / (high - low), 0, 1)
    return (1 - share) * plain / parameters["factor"] + share * plain, 1.0


def _yarn(plain: NDArray[np.float64], parameters: Mapping[str, Any], size: int) -> Stretched:
    """YaRN (Peng et al., arXiv 2309.00071, section 3): blended by the number of turns within the first context."""
    context, factor, theta = (parameters[k] for k in ("original_max_position_embeddings", "factor", "rope_theta"))

    def place(turns: float) -> float:
        return size * math.log(context / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low, high = place(parameters.get("beta_fast") or 32), place(parameters.get("beta_slow") or 1)
    if parameters.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, size - 1)
    ramp = np.clip((np.arange(size // 2) - low) / ((high - low) or 0.001), 0, 1)
    scale = parameters.get("attention_factor")
    if scale is None:
        one, all_dims = parameters.get("mscale"), parameters.get("mscale_all_dim")
        scale = _mscale(factor, one) / _mscale(factor, all_dims) if one and all_dims else _mscale(factor, 1)
    return plain / factor * ramp + plain * (1 - ramp), float(scale)


def _mscale(factor: float, scale: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * scale * math.log(factor) + 1.0


_STRETCH = {"default": _default, "linear": _linear, "llama3": _llama3, "yarn": _yarn}
