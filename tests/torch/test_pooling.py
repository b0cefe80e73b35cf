from __future__ import annotations

import pytest

import torch
from teva_torch.pooling import cls_pooling, last_pooling, mean_pooling

POOLINGS = {"cls": cls_pooling, "mean": mean_pooling, "last": last_pooling}


def _padded(side):
    """Texts of 1 to 4 tokens, padded to 4 on either side, and what each pooling has to give."""
    torch.manual_seed(1)
    texts = [torch.randn(length, 3) for length in (3, 1, 4, 2)]
    hidden, mask = torch.full((4, 4, 3), 1e6), torch.zeros(4, 4, dtype=torch.int64)
    for row, text in enumerate(texts):
        place = slice(0, len(text)) if side == "right" else slice(4 - len(text), 4)
        hidden[row, place], mask[row, place] = text, 1
    return texts, hidden, mask


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", POOLINGS)
def test_independent_of_the_padding_side(name, side):
    texts, hidden, mask = _padded(side)
    pick = {"cls": lambda text: text[0], "mean": lambda text: text.mean(0), "last": lambda text: text[-1]}[name]
    expected = torch.stack([pick(text) for text in texts])
    # The padding holds a million: mean pooling must not let it cancel in float32 either.
    torch.testing.assert_close(POOLINGS[name](hidden, mask), expected, rtol=1e-5, atol=1e-5)


def test_last_looks_at_every_row():
    # A published toolkit decides the padding side for the whole batch: a full row would mislead it.
    _, hidden, mask = _padded("right")
    hidden[0, 2] = 7.0
    assert last_pooling(hidden, mask)[0].tolist() == [7.0, 7.0, 7.0]
