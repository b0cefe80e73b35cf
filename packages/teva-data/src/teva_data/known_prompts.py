"""Prompts that published models need but do not store in a place that a program can read.

Each is taken from the model's card. A model that stores prompts of its own (``config_sentence_transformers.json``)
is never looked up here.
"""

from __future__ import annotations

import logging

logger = logging.getLogger(__name__)

_E5 = {"query": "query: ", "document": "passage: "}
_BGE_EN = {"query": "Represent this sentence for searching relevant passages: ", "document": ""}
_BGE_ZH = {"query": "为这个句子生成表示以用于检索相关文章：", "document": ""}

_PROMPTS: dict[str, dict[str, str]] = {
    **{f"intfloat/e5-{size}{version}": _E5 for size in ("small", "base", "large") for version in ("", "-v2")},
    **{f"intfloat/e5-{size}-unsupervised": _E5 for size in ("small", "base", "large")},
    **{f"intfloat/multilingual-e5-{size}": _E5 for size in ("small", "base", "large")},
    **{f"BAAI/bge-{size}-en{version}": _BGE_EN for size in ("small", "base", "large") for version in ("", "-v1.5")},
    **{f"BAAI/bge-{size}-zh{version}": _BGE_ZH for size in ("small", "base", "large") for version in ("", "-v1.5")},
}


def known_prompts(name: str) -> dict[str, str] | None:
    """The prompts of a hub id; None where it is not known."""
    if name not in _PROMPTS:
        return None
    logger.info("%s stores no prompts; using those of its model card: %s", name, _PROMPTS[name])
    return dict(_PROMPTS[name])
