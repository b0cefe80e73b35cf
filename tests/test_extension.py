"""The example of a package that extends teva, part by part, beside plain computations."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from tests.docs_blocks import ROOT
from tests.infer.test_search import store
from tests.torch import loss_cases

import torch
from teva_data.errors import RecipeError, TevaError
from teva_data.recipe import LossSection


@pytest.fixture(autouse=True)
def example(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "examples" / "extension" / "src"))
    yield
    for name in [name for name in sys.modules if name.startswith("teva_example")]:
        del sys.modules[name]


def triplet_by_hand(case, margin, own=None):
    """Query by query in float64."""
    queries = case.queries / np.linalg.norm(case.queries, axis=1, keepdims=True)
    documents = case.documents / np.linalg.norm(case.documents, axis=1, keepdims=True)
    left_out = {(int(q), int(d)) for q, d in case.excluded}
    total = 0.0
    for i in range(*(own or (0, len(queries)))):
        p = int(case.positive[i])
        others = [float(queries[i] @ d) for c, d in enumerate(documents) if c != p and (i, c) not in left_out]
        total += max(0.0, margin + max(others) - float(queries[i] @ documents[p]))
    return total / len(queries)


def test_the_loss_by_hand_and_in_parts():
    from teva_example.triplet import Triplet

    case = loss_cases.make_case(3, queries=6, documents=15)
    assert len(case.excluded), "a case without excluded pairs shows nothing of them"
    loss = Triplet(0.9)
    value, of_queries, of_documents = loss_cases.gradients(loss, case)
    expected = triplet_by_hand(case, 0.9)
    assert expected > 0.1
    assert abs(float(value) - expected) < 1e-5
    assert of_queries.abs().sum() > 0
    assert of_documents.abs().sum() > 0
    parts = [float(loss_cases.gradients(loss, case, case.targets(own))[0]) for own in ((0, 2), (2, 6))]
    assert abs(sum(parts) - expected) < 1e-5


def test_the_loss_takes_its_options_alone():
    from teva_example.triplet import Triplet

    assert Triplet.from_settings(LossSection(name="triplet", options={"margin": 0.5})).margin == 0.5
    with pytest.raises(RecipeError, match=r"loss.options.margn: unknown key. Did you mean 'margin'"):
        Triplet.from_settings(LossSection(name="triplet", options={"margn": 0.5}))


def test_the_pooling_on_either_side():
    from teva_example.ends import ends_pooling

    hidden = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[1, 1, 1, 0], [0, 1, 1, 1]])
    found = ends_pooling(hidden, mask)
    torch.testing.assert_close(found[0], (hidden[0, 0] + hidden[0, 2]) / 2)
    torch.testing.assert_close(found[1], (hidden[1, 1] + hidden[1, 3]) / 2)


@pytest.mark.parametrize("width", [32, 8])
def test_the_index_beside_exact_search(width, tmp_path, monkeypatch):
    from teva_example.sketch import SKETCH
    from teva_infer.indexes import building, opened
    from teva_infer.indexes.building import build_index
    from teva_infer.indexes.opened import Index
    from teva_infer.searching import search_block

    for module in (building, opened):
        monkeypatch.setattr(module, "find_kind", lambda name: SKETCH, raising=True)
    vectors = np.random.default_rng(1).standard_normal((500, 32)).astype(np.float32)
    corpus = store(tmp_path / "corpus", vectors, shard=200)
    queries = vectors[:7] + 0.1
    build_index(corpus, tmp_path / "index", kind="sketch", settings={"width": width}, part_rows=180)
    exact = search_block(queries, corpus, 10)
    # Every document a candidate: exact search, whatever the sketch says.
    everything = Index(tmp_path / "index", corpus, {"oversample": 50}).search(queries, 10)
    for one, other in zip(everything, exact, strict=True):
        np.testing.assert_array_equal(one, other)
    # Few candidates: a wide sketch finds nearly all, a narrow one less.
    rows = Index(tmp_path / "index", corpus, {"oversample": 2}).search(queries, 10)[1]
    found = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(rows.tolist(), exact[1].tolist(), strict=True)])
    assert found > (0.9 if width == 32 else 0.3)
    assert width == 32 or found < 1


def test_the_index_refuses_what_it_cannot_do():
    from teva_example.sketch import SKETCH

    with pytest.raises(TevaError, match="width: found 64; expected 1 to 32"):
        SKETCH.resolve({"width": 64}, dim=32, rows=10)
    with pytest.raises(TevaError, match="'widht' is not known"):
        SKETCH.resolve({"widht": 4}, dim=32, rows=10)
