"""`teva-data show` of pictures: what the model sees, made again from its patches."""

from __future__ import annotations

import re

import numpy as np
import pytest
from PIL import Image
from tests.torch import tower_models, vision_models

from teva_data.cli import main
from teva_data.dataset import Dataset


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return vision_models.make_data(tmp_path_factory.mktemp("shown") / "data")


def _shown(capsys, *words):
    assert main(["show", *map(str, words)]) == 0
    return capsys.readouterr().out


def test_a_picture_is_shown_as_the_model_sees_it(data, tmp_path, capsys):
    model = vision_models.make(tmp_path / "model", "Qwen2VL", longest_edge=512)
    out = _shown(capsys, data, "--row", "2", "--model", model, "--pictures", tmp_path / "out", "--documents", "1")
    (width, height), (rows, columns), tokens = (
        tuple(map(int, found.groups()))
        for found in (
            re.search(pattern, out)
            for pattern in (r"as (\d+) x (\d+) pixels", r"(\d+) x (\d+) patches", r"patches, (\d+) tokens")
        )
    )
    assert (columns * vision_models.PATCH, rows * vision_models.PATCH) == (width, height)
    assert tokens == (rows * columns // vision_models.MERGE**2,)
    assert f"⟨<|image_pad|> x {tokens[0]}⟩" in out
    # The row's query is a picture alone, its first document a text and a picture.
    query = Dataset.open(data).queries("train")[2]
    with Image.open(query.media[0].path) as original:
        resized = original.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
    with Image.open(tmp_path / "out" / "0-query-0.png") as written:
        assert np.abs(np.asarray(written, int) - np.asarray(resized, int)).max() <= 1
    assert (tmp_path / "out" / "1-positive-0.png").is_file()
    # Its length is what training counts.
    assert re.search(r"tokens  (\d+) of \1, limit", out)


def test_a_picture_is_shown_as_a_tower_sees_it(data, tmp_path, capsys):
    model = tower_models.make(tmp_path / "clip", "CLIP")
    out = _shown(capsys, data, "--row", "3", "--model", model, "--pictures", tmp_path / "out", "--documents", "1")
    assert "as 16 x 16 pixels, 2 x 2 patches, 4 tokens" in out
    assert "⟨picture x 4⟩" in out
    with Image.open(tmp_path / "out" / "0-negative-0.png") as written:
        assert written.size == (tower_models.SIDE, tower_models.SIDE)
        assert np.asarray(written).std() > 10


def test_nothing_to_write_is_told(data, tmp_path, capsys):
    assert main(["show", str(data), "--row", "0", "--documents", "0", "--pictures", str(tmp_path)]) == 1
    assert "pictures: nothing to write" in capsys.readouterr().err
