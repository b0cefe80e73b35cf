"""Statistics against counts made by hand over plain Python objects."""

from __future__ import annotations

import json
import random
import statistics as python
import unicodedata
from collections import Counter

import numpy as np
import pytest
from transformers import AutoTokenizer

from teva_data.cli import main
from teva_data.layout import write_layout
from teva_data.stats import Overlap, histogram, statistics
from teva_data.stats.scripts import count_scripts
from teva_data.stats.text import show_statistics

WORDS = ["red", "вода", "水", "מים", "river", "fast", "how", "stone"]


@pytest.fixture
def rows():
    """Documents and two splits with repeated texts, common queries and common positives."""
    chance = random.Random(3)

    def text() -> str:
        return " ".join(chance.choices(WORDS, k=chance.choice((1, 2, 3, 40))))

    corpus = [{"docid": f"d{n}", "title": chance.choice(["", "red"]), "document_text": text()} for n in range(300)]
    splits = {
        split: [
            {
                "query_id": f"{split}{n}", "query_text": text(),
                "positive_document_ids": chance.sample([f"d{n}" for n in range(100)], chance.randrange(3)),
                "negative_document_ids": chance.sample([f"d{n}" for n in range(100, 200)], chance.randrange(5)),
            }
            for n in range(count)
        ]
        for split, count in (("test", 50), ("train", 120))
    }  # fmt: skip
    return corpus, splits


@pytest.fixture
def data(rows, write):
    corpus, splits = rows
    for split, queries in splits.items():
        write(f"{split}.jsonl", queries)
    return write("corpus.jsonl", corpus).parent


def test_numbers_are_those_of_the_rows(rows, data):
    corpus, splits = rows
    found = statistics(data)
    assert [part.name for part in found.parts] == ["corpus", "test", "train"]
    said = Counter((row["title"] + " " + row["document_text"]).strip() for row in corpus)
    assert found.parts[0].repeated == sum(count - 1 for count in said.values()) > 0
    lengths = [len(row["document_text"]) for row in corpus]
    mean, low, median, *_, high = found.parts[0].spreads["text"]
    assert (low, median, high) == (min(lengths), python.median(lengths), max(lengths))
    assert mean == pytest.approx(python.fmean(lengths))
    for part in found.parts[1:]:
        queries = splits[part.name]
        assert part.rows == len(queries)
        assert part.repeated == len(queries) - len({query["query_text"] for query in queries})
        assert part.spreads["negatives"][0] == pytest.approx(
            python.fmean(len(query["negative_document_ids"]) for query in queries)
        )
        assert part.spreads["positives"][1] == 0  # a query without one is counted, not refused
    texts, positives = (
        [set().union(*([query[name]] if isinstance(query[name], str) else query[name] for query in splits[split]))
         for split in ("test", "train")]
        for name in ("query_text", "positive_document_ids")
    )  # fmt: skip
    assert found.overlaps == [Overlap(("test", "train"), len(texts[0] & texts[1]), len(positives[0] & positives[1]))]
    assert found.overlaps[0].queries > 0
    named = {docid for queries in splits.values() for query in queries
             for name in ("positive_document_ids", "negative_document_ids") for docid in query[name]}  # fmt: skip
    assert found.unnamed == 300 - len(named)


def test_histograms_hold_every_row(rows, data):
    corpus, _ = rows
    found = statistics(data).parts[0].histograms["text"]
    assert sum(found) == 300
    for at, count in enumerate(found):
        assert count == sum(len(row["document_text"]).bit_length() == at for row in corpus)
    assert histogram([0, 1, 2, 3, 4, 7, 8, 2**30 - 1, 2**30]) == (1, 1, 2, 2, 1, *[0] * 25, 1, 1)


def test_tokens_are_those_of_the_model(data, rows, tiny_decoder, tmp_path):
    """With the model's prompts and special tokens, and nothing cut at its limit of 64."""
    corpus, splits = rows
    model = tmp_path / "model"
    model.mkdir()
    for file in tiny_decoder.iterdir():
        (model / file.name).write_bytes(file.read_bytes())
    prompts = {"query": "how to ", "document": "the "}
    write_layout(model, pooling="last", normalize=True, dim=32, max_length=16, prompts=prompts, teva={}, card="")
    tokenizer = AutoTokenizer.from_pretrained(tiny_decoder)
    found = statistics(data, model=model)
    expected = [len(tokenizer("the " + f"{row['title']} {row['document_text']}".strip()).input_ids) for row in corpus]
    assert max(expected) > 40
    assert found.parts[0].spreads["tokens"] == pytest.approx(
        (np.mean(expected), *np.quantile(expected, (0, 0.5, 0.9, 0.99, 1)))
    )
    asked = [len(tokenizer("how to " + query["query_text"]).input_ids) for query in splits["train"]]
    assert found.parts[2].spreads["tokens"][0] == pytest.approx(np.mean(asked))
    assert "corpus: tokens\n" in show_statistics(found)


def test_scripts_are_those_that_unicode_names():
    """Against the names of the characters themselves."""
    names = {"LATIN": "Latin", "GREEK": "Greek", "CYRILLIC": "Cyrillic", "HEBREW": "Hebrew", "ARABIC": "Arabic",
             "DEVANAGARI": "Devanagari", "THAI": "Thai", "HANGUL": "Hangul", "HIRAGANA": "Kana", "KATAKANA": "Kana",
             "CJK": "Han", "BENGALI": "Bengali", "TAMIL": "Tamil", "GEORGIAN": "Georgian"}  # fmt: skip
    text = "The Straße, naïve façade: Ωμέγα, вода 12, שלום, مرحبا, "
    text += "नमस्ते, สวัสดี, 안녕하세요, ひらがなカタカナ, 漢字 𠀋, আমি, தமிழ், ქართ 🙂!"
    expected = Counter(
        names[word] for each in text if unicodedata.category(each)[0] in "LM"
        and (word := unicodedata.name(each).split()[0]) in names
    )  # fmt: skip
    assert count_scripts([text[:60], text[60:]]) == expected
    assert count_scripts([]) == count_scripts(["", "12 .,!?\n", "🙂"]) == {}
    assert count_scripts(["a" * 10_000]) == {"Latin": 256}


def test_media_and_what_stands_beside_them(write):
    directory = write("corpus.jsonl", [
        {"docid": "a", "document_image": ["m/1.png", "m/2.png"]},
        {"docid": "b", "document_image": "m/1.png", "document_text": "x"},
        {"docid": "c", "document_image": "m/1.png", "document_text": "x"},
        {"docid": "d", "document_audio": {"file": "m/1.png", "offset": 2, "length": 3}, "document_text": "x"},
        {"docid": "e", "document_text": "x"},
    ]).parent  # fmt: skip
    write("train.jsonl", [{"query_id": n, "query_image": f"m/{n}.png", "positive_document_ids": ["a"]} for n in (1, 2)])
    (directory / "m").mkdir()
    (directory / "m" / "1.png").write_bytes(b"12345")
    (directory / "m" / "2.png").write_bytes(b"1234567")
    corpus, train = statistics(directory).parts
    assert corpus.media == {"image": 4, "audio": 1}
    assert corpus.media_bytes == {"image": 22, "audio": 3}
    assert corpus.repeated == 1  # c says what b says; the others differ in their media
    assert train.repeated == 0
    assert train.media == {"image": 2}


def test_names_that_the_corpus_does_not_have_are_counted(write):
    write("corpus.jsonl", [{"docid": "a", "document_text": "x"}])
    directory = write("train.jsonl", [
        {"query_id": "q", "query_text": "x", "positive_document_ids": ["no", "a"], "negative_document_ids": ["nor"]}
    ]).parent  # fmt: skip
    found = statistics(directory)
    assert (found.parts[1].unknown, found.unnamed) == (2, 0)
    assert "train: 2 names of documents are not in the corpus" in show_statistics(found)


def test_command_line(data, tmp_path, capsys):
    file = tmp_path / "stats.json"
    assert main(["stats", str(data), "--json", str(file)]) == 0
    printed, found = capsys.readouterr().out, json.loads(file.read_text())
    assert found["parts"][2]["rows"] == 120
    assert found["overlaps"][0]["splits"] == ["test", "train"]
    assert f"{found['unnamed']} of 300 documents are named by no query" in printed
    assert f"test and train: {found['overlaps'][0]['queries']} queries in common" in printed
    assert f"corpus: {found['parts'][0]['repeated']} of 300 documents say what an earlier one says" in printed
    bars = printed.split("train: text, characters\n")[1].split("\n\n")[0].splitlines()
    assert sum(int(line.split()[-1]) for line in bars) == 120
    assert max(line.count("█") for line in bars) == 40
    assert max(map(len, bars)) < 80


def test_a_corpus_alone(write):
    directory = write("corpus.jsonl", [{"docid": "a", "title": "only a title"}]).parent
    found = statistics(directory)
    assert (len(found.parts), found.overlaps, found.unnamed) == (1, [], 1)
    assert found.parts[0].histograms["text"] == (1,)
    assert "named by no query" not in show_statistics(found)
