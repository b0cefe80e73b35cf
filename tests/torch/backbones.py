"""Tiny random models of real architectures, with tokenizers as they are published; for the tests of this folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.conftest import WORDS

import torch

_COMMON = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
_DECODER = {**_COMMON, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 64}
_IDS = {"pad_token_id": 1, "bos_token_id": 3, "eos_token_id": 2}

# Name in transformers and what its configuration is made of.
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "Bert": {**_COMMON, "max_position_embeddings": 64, "pad_token_id": 1},
    "XLMRoberta": {**_COMMON, "max_position_embeddings": 66, "pad_token_id": 1, "type_vocab_size": 1},
    "ModernBert": {**_COMMON, "max_position_embeddings": 64, "local_attention": 8, "global_attn_every_n_layers": 2},
    "Llama": _DECODER,
    "Mistral": {**_DECODER, "sliding_window": 6},
    "Qwen2": _DECODER,
    "Qwen3": _DECODER,
    "Gemma2": {**_DECODER, "sliding_window": 6, "query_pre_attn_scalar": 8},
    "Gemma3Text": {**_DECODER, "sliding_window": 6, "query_pre_attn_scalar": 8},
}
ENCODERS = ("Bert", "XLMRoberta", "ModernBert")
DECODERS = tuple(name for name in ARCHITECTURES if name not in ENCODERS)


def make(directory: Path, name: str, *, ending: str | None = None, **changes: Any) -> Path:
    """A bare backbone: a model of random weights, and a tokenizer.

    Args:
        directory: where.
        name: of the architecture in transformers.
        ending: the post-processor's template; that of BERT for encoders and ``<bos> $A`` for decoders if not given.
        changes: to the configuration.
    """
    import transformers

    torch.manual_seed(0)
    ids = {**_IDS, "cls_token_id": 3, "sep_token_id": 2} if name in ENCODERS else _IDS
    vocabulary = {word: number for number, word in enumerate(["<unk>", "<pad>", "<eos>", "<bos>", *WORDS])}
    config = getattr(transformers, f"{name}Config")(
        **{**ids, "vocab_size": len(vocabulary), **ARCHITECTURES[name], **changes}
    )
    getattr(transformers, f"{name}Model")(config).save_pretrained(directory)
    if ending is None:
        ending = "<bos> $A <eos>" if name in ENCODERS else "<bos> $A"
    make_tokenizer(directory, vocabulary, ending)
    return directory


def make_tokenizer(directory: Path, vocabulary: dict[str, int], ending: str, special: Sequence[str] = ()) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if ending != "$A":
        around = [(token, vocabulary[token]) for token in ("<bos>", "<eos>") if token in ending]
        tokenizer.post_processor = processors.TemplateProcessing(single=ending, special_tokens=around)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", pad_token="<pad>", eos_token="<eos>", bos_token="<bos>",
        model_max_length=64, extra_special_tokens=list(special),
    ).save_pretrained(directory)  # fmt: skip
