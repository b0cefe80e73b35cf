"""Which scripts texts are written in, by Unicode block: cheap, and no guess at the language."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import numpy as np

LOOKED_AT = 256
"""Characters of each text that are counted, from its start."""

# First and last code point of the blocks; digits and punctuation of ASCII belong to no script.
_BLOCKS = [
    (0x41, 0x5A, "Latin"), (0x61, 0x7A, "Latin"), (0xC0, 0x24F, "Latin"), (0x370, 0x3FF, "Greek"),
    (0x400, 0x52F, "Cyrillic"), (0x530, 0x58F, "Armenian"), (0x590, 0x5FF, "Hebrew"), (0x600, 0x6FF, "Arabic"),
    (0x750, 0x77F, "Arabic"), (0x8A0, 0x8FF, "Arabic"), (0x900, 0x97F, "Devanagari"), (0x980, 0x9FF, "Bengali"),
    (0xA00, 0xA7F, "Gurmukhi"), (0xA80, 0xAFF, "Gujarati"), (0xB00, 0xB7F, "Oriya"), (0xB80, 0xBFF, "Tamil"),
    (0xC00, 0xC7F, "Telugu"), (0xC80, 0xCFF, "Kannada"), (0xD00, 0xD7F, "Malayalam"), (0xD80, 0xDFF, "Sinhala"),
    (0xE00, 0xE7F, "Thai"), (0xE80, 0xEFF, "Lao"), (0xF00, 0xFFF, "Tibetan"), (0x1000, 0x109F, "Myanmar"),
    (0x10A0, 0x10FF, "Georgian"), (0x1100, 0x11FF, "Hangul"), (0x1200, 0x139F, "Ethiopic"), (0x1780, 0x17FF, "Khmer"),
    (0x1800, 0x18AF, "Mongolian"), (0x1E00, 0x1EFF, "Latin"), (0x1F00, 0x1FFF, "Greek"), (0x2E80, 0x2FDF, "Han"),
    (0x3005, 0x3007, "Han"), (0x3040, 0x30FF, "Kana"), (0x3130, 0x318F, "Hangul"), (0x31F0, 0x31FF, "Kana"),
    (0x3400, 0x4DBF, "Han"), (0x4E00, 0x9FFF, "Han"), (0xAC00, 0xD7AF, "Hangul"), (0xF900, 0xFAFF, "Han"),
    (0xFB50, 0xFDFF, "Arabic"), (0xFE70, 0xFEFC, "Arabic"), (0xFF21, 0xFF3A, "Latin"), (0xFF41, 0xFF5A, "Latin"),
    (0xFF66, 0xFF9D, "Kana"), (0x20000, 0x323AF, "Han"),
]  # fmt: skip
_BOUNDS = np.array([bound for first, last, _ in _BLOCKS for bound in (first, last + 1)], dtype=np.uint32)


def count_scripts(texts: Iterable[str]) -> Counter[str]:
    """Letters of each script in the first :data:`LOOKED_AT` characters of each text."""
    joined = "".join(text[:LOOKED_AT] for text in texts)
    points = np.frombuffer(joined.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    # Odd places lie inside a block, even ones between two.
    places = np.bincount(np.searchsorted(_BOUNDS, points, side="right"), minlength=len(_BOUNDS) + 1)
    counts: Counter[str] = Counter()
    for (_, _, name), count in zip(_BLOCKS, places[1::2].tolist(), strict=True):
        if count:
            counts[name] += count
    return counts


def shares(counts: Counter[str]) -> dict[str, float]:
    """The share of each script, the largest first."""
    total = counts.total()
    return {name: count / total for name, count in counts.most_common()}
