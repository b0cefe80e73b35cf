"""Pictures in real vLLM (CPU): the same vectors. Run with `uv run --group vllm pytest -m slow tests/slow`."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
from benchmarks import small_vlm
from PIL import Image
from tests.conftest import WORDS
from tests.torch import vision_models

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Documents of text, of pictures and of both, whose pictures are larger than the model takes them."""
    place = vision_models.make_data(tmp_path_factory.mktemp("pictures") / "data")
    random = np.random.default_rng(0)
    for number in range(12):
        rows, columns = random.integers(4, 14, 2)
        shades = random.integers(0, 255, (rows, columns, 3), dtype=np.uint8)
        Image.fromarray(shades.repeat(17, 0).repeat(17, 1)).save(place / f"images/{number}.png")
    return place


@pytest.fixture(scope="module")
def artifact(data, tmp_path_factory):
    from teva_torch import train

    root = tmp_path_factory.mktemp("vlm")
    base = small_vlm.make(root / "base", [" ".join(WORDS)] * 20)
    settings = {
        "model": {"name": str(base), "pooling": "last", "normalize": True, "query_max_length": 64,
                  "document_max_length": 96},
        "prompts": {"query": "question: ", "document": "page: "},
        "data": {"path": str(data), "negatives": 1},
        "train": {"output": str(root / "run"), "steps": 3, "batch_size": 4, "learning_rate": 1e-3},
        "torch": {"device": "cpu", "lora": {"rank": 4, "vision": True}},
    }  # fmt: skip
    return train(settings).artifact


def test_pictures_and_texts_have_the_vectors_of_torch(artifact, data):
    if importlib.util.find_spec("vllm") is None:
        pytest.fail("vLLM is not installed: uv run --group vllm pytest -m slow tests/slow")
    from teva_data.dataset import Dataset
    from teva_infer import Encoder

    documents = list(Dataset.open(data).corpus)
    expected = Encoder.load(artifact.path, device="cpu").encode_documents(documents)
    for inputs in ("tokens", "texts"):
        encoder = Encoder.load(artifact.path, engine="vllm", engine_options={"inputs": inputs})
        found = encoder.encode_documents(documents)
        encoder.close()
        cosines = (expected * found).sum(axis=1)
        texts = np.array([not one.media for one in documents])
        print(f"vLLM, {inputs}: smallest cosine of texts {cosines[texts].min()}, of pictures {cosines[~texts].min()}")
        assert cosines[texts].min() > 0.99999
        assert cosines[~texts].min() > 0.999
        # The picture decides: that of another document is farther off by far.
        swapped = (np.roll(expected, 3, axis=0) * found).sum(axis=1)[1::3]
        assert swapped.mean() < 0.99


def test_verify_compares_pictures(artifact):
    from teva_infer import verify

    report = verify(artifact.path, engines=["torch", "vllm"], store=False)
    assert report.passed, report.table()
    assert {(row.runtime, row.role) for row in report.rows} == {
        (name, kind) for name in ("torch", "vllm") for kind in ("", "pictures")
    }
