"""What the learned claims rest on: collections divided, and a permutation test that finds nothing where nothing is."""

from __future__ import annotations

import numpy as np
from benchmarks import picture_sets


def _searches(rng, right):
    """Three queries a picture, whose rankings are alike, with the right picture first or wherever it falls."""
    pictures = [f"picture{number}" for number in range(40)]
    found, judged = {}, {}
    for picture in pictures:
        ranking = list(rng.permutation(pictures))
        if right:
            ranking.remove(picture)
            ranking.insert(0, picture)
        for language in ("en", "es", "fr"):
            found[f"{picture}.{language}"], judged[f"{picture}.{language}"] = ranking, {picture: 1}
    return found, judged


def test_queries_of_one_picture_count_as_one_draw():
    rng = np.random.default_rng(0)
    by_chance = np.array([picture_sets.against_chance(*_searches(rng, right=False), 0, 200) for _ in range(100)])
    # Taken as three draws each, about one in six would be below 0.05.
    assert (by_chance[:, 1] < 0.05).mean() <= 0.12
    assert 0.3 <= (by_chance[:, 1] < 0.5).mean() <= 0.7
    mean, p = picture_sets.against_chance(*_searches(rng, right=True), 0, 200)
    assert p == 1 / 201
    assert mean < 0.2


def test_a_divided_collection_asks_for_what_training_has_not_seen(tmp_path):
    data = tmp_path / "data"
    (data / "media").mkdir(parents=True)
    (data / "qrels").mkdir()
    for name in ("a", "b", "b-again", "c"):
        (data / "media" / f"{name}.wav").write_bytes(name[:1].encode())
        (data / "media" / f"{name}.ask.wav").write_bytes(b"?")
    picture_sets.write(
        data / "corpus.jsonl",
        [{"docid": name, "document_audio": f"media/{name}.wav"} for name in ("a", "b", "b-again", "c")],
    )
    for split, names in (("train", ("a", "b")), ("test", ("b-again", "c"))):
        picture_sets.write(
            data / f"{split}.jsonl",
            [
                {"query_id": f"{name}?", "query_audio": f"media/{name}.ask.wav", "positive_document_ids": [name]}
                for name in names
            ],
        )
    (data / "qrels/test.tsv").write_text("query_id\tdocid\tscore\nb-again?\tb-again\t1\nc?\tc\t1\n")
    counts = picture_sets.divide(data, tmp_path / "out", kind="audio")
    assert counts == {
        "training recordings": 2, "training queries": 2, "test recordings": 1, "left out of them, seen before": 1,
        "test queries": 1,
    }  # fmt: skip
    (asked,) = picture_sets.rows(tmp_path / "out/test/test.jsonl")
    assert (tmp_path / "out/test" / asked["query_audio"]).read_bytes() == b"?"
    assert [row["docid"] for row in picture_sets.rows(tmp_path / "out/test/corpus.jsonl")] == ["c"]
    assert (tmp_path / "out/test/qrels/test.tsv").read_text().splitlines()[1:] == ["c?\tc\t1"]
