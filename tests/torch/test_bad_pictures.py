"""Pictures that cannot be read, and odd ones that can: refused with their address, or left out and named."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from tests.torch import vision_models

import torch
from teva_data.artifact import Artifact
from teva_data.dataset import Dataset
from teva_data.errors import DataError, MediaError
from teva_data.feed import Feed
from teva_data.metrics import read_metrics
from teva_data.plan import BatchPlan
from teva_data.rendering import Renderer
from teva_torch.caching import BatchGradient, Passes
from teva_torch.distributed import Processes
from teva_torch.losses import InfoNCE, Targets
from teva_torch.model import Retriever
from teva_torch.recipe import read_recipe
from teva_torch.skipping import Skipped
from teva_torch.training import train

RED = (200, 30, 40)
BAD_IMAGES = (1, 2, 4, 8)
BAD = {
    *(("document", f"d{number}") for number in range(36) if number % 12 in BAD_IMAGES),
    *(("query", f"q{number}") for number in range(36) if number % 12 in (2, 8)),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The usual data, with odd pictures in the places of some."""
    directory = vision_models.make_data(tmp_path_factory.mktemp("bad") / "data")
    images = directory / "images"
    Image.new("RGB", (60, 40), RED).save(images / "whole.jpg")
    (images / "1.png").write_bytes((images / "whole.jpg").read_bytes()[:300])  # cut short
    (images / "2.png").write_bytes(b"")
    Image.new("1", (20_000, 20_000)).save(images / "4.png")
    frames = [Image.new("RGB", (30, 20), colour) for colour in (RED, (0, 0, 255))]
    frames[0].save(images / "5.gif", save_all=True, append_images=frames[1:])
    (images / "5.gif").replace(images / "5.png")
    Image.new("RGB", (30, 20), RED).convert("CMYK").save(images / "7.jpg", quality=95)
    (images / "7.jpg").replace(images / "7.png")
    (images / "8.png").unlink()
    Image.new("RGB", (20_000, 150), RED).save(images / "10.png")
    (directory / "qrels").mkdir()
    lines = [f"q{number}\td{number}\t1" for number in range(36)]
    (directory / "qrels/train.tsv").write_text("\n".join(["query_id\tdocid\tscore", *lines]) + "\n")
    return directory


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return vision_models.make(tmp_path_factory.mktemp("seeing") / "model", "Qwen2_5_VL")


def _recipe(model, data, output="-", **changes):
    return read_recipe({
        "model": {"name": str(model), "pooling": "last", "normalize": True, "query_max_length": 48,
                  "document_max_length": 48, "max_pixels": 256},
        "data": {"path": str(data), "negatives": 2, "bad_pictures": "skip"},
        "loss": {"temperature": 0.05},
        "train": {"output": str(output), "steps": 4, "batch_size": 9, "learning_rate": 1e-3, "log_every": 1,
                  "save_every": 2, "eval_every": 4, "eval_split": "train"},
        "torch": {"device": "cpu", "gradient_cache": True, "chunk_tokens": 64},
    }, changes)  # fmt: skip


def _picture(model, path):
    renderer = Renderer.from_artifact(Artifact.load(model), max_length=512, max_pixels=256)
    (ids,) = renderer.tokenize([renderer.document("", "", None, (path,))])
    return ids.pictures[0]


def _media(data, number):
    store = Dataset.open(data, lenient=True).corpus
    return next(one.media[0] for one in store if one.docid == f"d{number}")


@pytest.mark.parametrize(
    ("number", "words"),
    [(1, "cannot be decoded.*cut short"), (2, "at least one byte"), (4, "400000000 pixels.*At most 100,000,000"),
     (8, "cannot be read: No such file")],
)  # fmt: skip
def test_one_that_cannot_be_read_is_refused_with_its_address(model, data, number, words):
    with pytest.raises(MediaError, match=words) as caught:
        _picture(model, _media(data, number))
    assert str(data / f"images/{number}.png") in str(caught.value)


@pytest.mark.parametrize("number", [5, 7, 10])
def test_odd_ones_are_read_as_they_look(model, data, number):
    """An animation is its first frame; inks become colours; a strip of 20,000 pixels is made small."""
    picture = _picture(model, _media(data, number))
    colours = picture.pixels.reshape(len(picture.pixels), 3, -1).mean(axis=(0, 2))
    np.testing.assert_allclose(colours, RED, atol=6)
    assert np.prod(picture.grid) * vision_models.PATCH**2 <= (256 if number != 10 else 8192)


def test_a_huge_picture_takes_no_memory_before_it_is_refused(data):
    """400 million pixels would be 1.2 GB."""
    code = (
        "import resource, sys\n"
        "from PIL import Image\n"
        "from teva_data.errors import MediaError\nfrom teva_data.modalities.image import decode, upright_size\n"
        "from teva_data.pieces import Media\n"
        "media = Media('image', sys.argv[1])\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "for read in (upright_size, decode):\n"
        "    try:\n        read(media)\n    except MediaError:\n        continue\n    sys.exit('not refused')\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, data / "images/4.png"], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 50_000  # KiB


def test_rows_that_name_no_file_are_refused_when_the_data_is_first_read(model, data, tmp_path):
    fresh = shutil.copytree(data, tmp_path / "data", ignore=shutil.ignore_patterns(".teva"))
    for name, words in (("images/2.png", "no bytes there"), ("images/8.png", "no such file")):
        with pytest.raises(DataError, match=rf"(corpus|train)\.jsonl:\d+: field '.*image': {words}.*{name}"):
            train(_recipe(model, fresh, tmp_path / "run", **{"data.bad_pictures": "error"}))
        shutil.copy(data / "images/11.png", fresh / name)
    # What is damaged within is found when it is read.
    with pytest.raises(MediaError, match=r"images/[14]\.png"):
        train(_recipe(model, fresh, tmp_path / "run", **{"data.bad_pictures": "error"}))


def test_the_loss_is_that_of_the_records_left(model, data, tmp_path):
    """Whatever a loss compares: here every direction."""
    recipe = _recipe(model, data)
    renderer = Renderer.from_artifact(Artifact.load(model), max_length=48, max_pixels=256)
    item = Feed(BatchPlan.from_recipe(recipe), renderer, recipe).batch(0)
    skipped = Skipped(tmp_path, Processes(), resumed=False)
    agreed = skipped.agree(item)
    queries, documents = agreed.kept.queries, agreed.kept.documents
    assert 0 < len(queries) < len(item.query_ids)
    assert 0 < len(documents) < len(item.document_ids)
    docids = [item.batch.documents[at].docid for at in documents]
    for at, query in zip(queries, agreed.kept.batch.queries, strict=True):
        assert query is item.batch.queries[at]
        assert ("query", query.query_id) not in BAD
    assert not {("document", name) for name in docids} & BAD
    targets = Targets.of(agreed.kept.batch, "cpu")
    for at, query in enumerate(agreed.kept.batch.queries):
        assert docids[targets.positives[at]] in query.positive_document_ids
        listed = [docids[column] for column in targets.groups[at, 1:] if column >= 0]
        assert set(listed) == set(query.negative_document_ids) - {name for role, name in BAD if role == "document"}

    loss = InfoNCE(
        temperature=0.05,
        directions=("query_to_document", "document_to_query", "query_to_query", "document_to_document"),
    )
    retriever = Retriever.load(Artifact.load(model), pooling="last", normalize=True).train()
    vectors = [
        torch.cat([retriever.vectors([side[at]]) for at in places])
        for side, places in ((item.query_ids, queries), (item.document_ids, documents))
    ]
    value = loss(*vectors, targets)
    value.backward()
    expected = {name: one.grad.clone() for name, one in retriever.named_parameters() if one.grad is not None}
    retriever.zero_grad()
    found = BatchGradient(retriever, loss, Passes(64, cached=True)).add(agreed)
    assert found == pytest.approx(float(value.detach()), rel=1e-5)
    for name, one in retriever.named_parameters():
        if name in expected:
            assert (one.grad - expected[name]).norm() <= 1e-4 * expected[name].norm() + 1e-6, name


_JOB = """
import json, sys
from teva_torch.distributed import join
from teva_torch.training import train

with join("cpu", 120):
    train(json.loads(sys.argv[1]))
"""


@pytest.mark.slow
def test_a_run_leaves_them_out_and_names_each_whatever_the_number_of_processes(model, data, tmp_path):
    one = train(_recipe(model, data, tmp_path / "one"))
    job = _recipe(model, data, tmp_path / "two").to_dict()
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--no-python",
         sys.executable, "-c", _JOB, json.dumps(job)],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    for name in ("one", "two"):
        rows = [json.loads(line) for line in (tmp_path / name / "skipped.jsonl").read_text().splitlines()]
        assert {(row["role"], row["id"]) for row in rows} == BAD
        assert all(str(data / "images") in row["problem"] for row in rows)
        assert json.loads((tmp_path / name / "artifact/teva.json").read_text())["left_out"] == {
            "query": 6, "document": 12,
        }  # fmt: skip
    rows = [read_metrics(tmp_path / name / "metrics.jsonl") for name in ("one", "two")]
    losses = [[row["loss"] for row in each] for each in rows]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert rows[0][-1]["nDCG@10"] == pytest.approx(rows[1][-1]["nDCG@10"], abs=1e-3)
    log = (one.output / "train.log").read_text()
    assert "6 queries and 12 documents were left out" in log
    assert log.count("measured as if it were empty") == len(BAD_IMAGES)


def test_a_batch_with_nothing_left_has_no_gradient(model, data, tmp_path):
    recipe = _recipe(model, data)
    renderer = Renderer.from_artifact(Artifact.load(model), max_length=48, max_pixels=256)
    item = Feed(BatchPlan.from_recipe(recipe), renderer, recipe).batch(0)
    bad = dict.fromkeys(range(len(item.query_ids)), MediaError("bad"))
    agreed = Skipped(tmp_path, Processes(), resumed=False).agree(dataclasses.replace(item, bad=(bad, {})))
    retriever = Retriever.load(Artifact.load(model), pooling="last", normalize=True).train()
    assert BatchGradient(retriever, InfoNCE(), Passes(64, cached=True)).add(agreed) == 0
    assert all(one.grad is None or not one.grad.any() for one in retriever.parameters())
