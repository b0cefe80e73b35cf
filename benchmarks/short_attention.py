"""Times attention, forward and back, fused and as products, for texts of some lengths: what short_attention rests on.

python -m benchmarks.short_attention [THREADS]
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from types import SimpleNamespace

from transformers import AttentionInterface

import torch
from teva_torch import short_attention
from torch import Tensor

HEADS, WIDTH, TOKENS, REPEATS = 12, 32, 2048, 9


def seconds(function: Callable[..., tuple[Tensor, Tensor | None]], length: int, dtype: torch.dtype) -> float:
    """The median time of one layer's attention over 2,048 tokens in texts of ``length``, the last token masked."""
    texts = TOKENS // length
    mask = torch.ones(texts, 1, length, length, dtype=torch.bool)
    mask[..., -1] = False
    states = [torch.randn(texts, length, HEADS, WIDTH, dtype=dtype).transpose(1, 2) for _ in range(3)]
    module = SimpleNamespace(training=True, is_causal=False)
    taken = []
    for _ in range(REPEATS):
        leaves = [state.detach().requires_grad_() for state in states]
        before = time.perf_counter()
        result, _ = function(module, *leaves, mask)
        result.backward(torch.ones_like(result))  # type: ignore[no-untyped-call]
        taken.append(time.perf_counter() - before)
    return statistics.median(taken)


def main(words: list[str]) -> None:
    torch.set_num_threads(int(words[0]) if words else torch.get_num_threads())
    fused, short_attention.LONGEST = AttentionInterface()["sdpa"], TOKENS
    print("milliseconds of 2,048 tokens: dtype, tokens of a text, sdpa, products")
    for dtype in (torch.bfloat16, torch.float32):
        for length in (16, 32, 64, 128, 192, 256, 512):
            pair = [1000 * seconds(one, length, dtype) for one in (fused, short_attention.attention)]
            print(f"{dtype}  {length:4}  {pair[0]:7.1f}  {pair[1]:7.1f}")


if __name__ == "__main__":
    main(sys.argv[1:])
