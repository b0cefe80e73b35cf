"""Small real models and data that tests of every package share; nothing is downloaded."""

from __future__ import annotations

import json
import os
import string
from pathlib import Path

# Before torch is imported anywhere. Models of 2 layers gain nothing from more threads, and threads that wait for each
# other on a busy machine are a hundred times slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest

WORDS = [
    "the",
    "a",
    "of",
    "to",
    "in",
    "is",
    "and",
    "for",
    "with",
    "on",
    "how",
    "what",
    "when",
    "where",
    "red",
    "blue",
    "green",
    "fast",
    "slow",
    "river",
    "mountain",
    "city",
    "engine",
    "water",
    "fire",
    "stone",
    "paper",
    "music",
    "table",
    "window",
    "garden",
    "winter",
    "summer",
    "morning",
    "evening",
    "bread",
    "salt",
    "sugar",
    "tea",
    "copper",
    "iron",
]


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random BERT of 2 layers with a WordPiece tokenizer, in sentence-transformers' layout."""
    pytest.importorskip("torch")  # .ci/packages_alone.py runs the tests of packages that have none
    return make_tiny_bert(tmp_path_factory.mktemp("tiny-bert"))


@pytest.fixture(scope="session")
def bare_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same kind of model as a bare backbone: no modules.json."""
    pytest.importorskip("torch")
    return make_tiny_bert(tmp_path_factory.mktemp("bare-bert"), layout=False)


@pytest.fixture(scope="session")
def tiny_decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Qwen3 of 2 layers as a bare backbone; its tokenizer appends EOS and pads on the left."""
    return make_tiny_qwen3(tmp_path_factory.mktemp("tiny-qwen3"))


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 queries and 60 documents of made-up words, with listed negatives and a test split."""
    directory = tmp_path_factory.mktemp("tiny-data")
    make_tiny_data(directory)
    return directory


def make_tiny_bert(directory: Path, *, layout: bool = True) -> Path:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    import torch

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = string.ascii_lowercase + string.digits
    pieces = [*special, *WORDS, *letters, *(f"##{letter}" for letter in letters)]
    vocabulary = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        mask_token="[MASK]", model_max_length=64,
    )  # fmt: skip
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary), hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        max_position_embeddings=64,
    )  # fmt: skip
    BertModel(config).save_pretrained(directory)
    fast.save_pretrained(directory)
    if layout:
        from teva_data.layout import write_layout

        write_layout(
            directory, pooling="mean", normalize=True, dim=32, max_length=48,
            prompts={"query": "", "document": ""}, teva={}, card="",
        )  # fmt: skip
    return directory


def make_tiny_qwen3(directory: Path) -> Path:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3Model

    import torch

    vocabulary = {word: number for number, word in enumerate(["<unk>", "<pad>", "<eos>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 2)])
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", pad_token="<pad>", eos_token="<eos>", padding_side="left",
        model_max_length=64,
    ).save_pretrained(directory)  # fmt: skip
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=len(vocabulary), hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        head_dim=8, intermediate_size=64, max_position_embeddings=64, pad_token_id=1, eos_token_id=2,
    )  # fmt: skip
    Qwen3Model(config).save_pretrained(directory)
    return directory


def make_tiny_data(directory: Path) -> None:
    count = len(WORDS)
    documents = [
        {
            "docid": f"d{n}",
            "title": WORDS[n % count] if n % 3 else "",
            "document_text": " ".join(WORDS[(n * 7 + k * k) % count] for k in range(4 + n % 9)),
        }
        for n in range(60)
    ]
    queries = [
        {
            "query_id": f"q{n}",
            "query_text": " ".join(str(documents[n]["document_text"]).split()[: 2 + n % 3]),
            "positive_document_ids": [f"d{n}"] + ([f"d{n + 1}"] if n % 5 == 0 else []),
            "negative_document_ids": [f"d{(n + k) % 60}" for k in range(10, 10 + n % 7)],
        }
        for n in range(48)
    ]
    write_jsonl(directory / "corpus.jsonl", documents)
    write_jsonl(directory / "train.jsonl", queries[:40])
    write_jsonl(directory / "test.jsonl", queries[40:])
    (directory / "qrels").mkdir(parents=True, exist_ok=True)
    rows = [f"{q['query_id']}\t{d}\t1\n" for q in queries[40:] for d in q["positive_document_ids"]]
    (directory / "qrels" / "test.tsv").write_text("query_id\tdocid\tscore\n" + "".join(rows))


def write_jsonl(path: Path, rows: list[dict[str, object]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
