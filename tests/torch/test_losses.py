from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import torch
from teva_torch.losses.infonce import infonce


def _reference():
    path = Path(__file__).parents[1] / "reference" / "losses.py"
    spec = importlib.util.spec_from_file_location("reference_losses", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


reference = _reference()


def _case(seed, queries, documents, dim=5):
    random = np.random.default_rng(seed)
    positives = random.integers(0, documents, queries)
    allowed = random.random((queries, documents)) < 0.7
    allowed[np.arange(queries), positives] = True
    return random.normal(size=(queries, dim)), random.normal(size=(documents, dim)), positives, allowed


def _torch(q, d, positives, allowed, temperature):
    return infonce(
        q, d, positives=torch.from_numpy(positives), allowed=torch.from_numpy(allowed), temperature=temperature
    )


@given(seed=st.integers(0, 10**6), queries=st.integers(1, 6), documents=st.integers(1, 9), t=st.floats(0.02, 2))
@settings(max_examples=60, deadline=None)
def test_infonce_equals_the_oracle(seed, queries, documents, t):
    q, d, positives, allowed = _case(seed, queries, documents)
    expected = reference.infonce(q, d, positives, allowed, t)
    found = _torch(torch.tensor(q, dtype=torch.float32), torch.tensor(d, dtype=torch.float32), positives, allowed, t)
    assert float(found) == pytest.approx(expected, rel=2e-5, abs=1e-5)


def test_infonce_gradient_equals_central_differences():
    q, d, positives, allowed = _case(3, 4, 6)
    tensor = torch.tensor(q, dtype=torch.float32, requires_grad=True)
    _torch(tensor, torch.tensor(d, dtype=torch.float32), positives, allowed, 0.5).backward()
    expected = reference.numerical_gradient(lambda value: reference.infonce(value, d, positives, allowed, 0.5), q)
    np.testing.assert_allclose(tensor.grad.numpy(), expected, rtol=1e-4, atol=1e-5)


def test_temperature_matters():
    # A published toolkit drops it in one of its paths.
    q, d, positives, allowed = _case(1, 4, 6)
    q, d = torch.tensor(q), torch.tensor(d)
    assert float(_torch(q, d, positives, allowed, 0.01)) != pytest.approx(float(_torch(q, d, positives, allowed, 1.0)))


def test_a_document_left_out_changes_nothing():
    q, d, positives, allowed = _case(2, 3, 5)
    allowed[:, 4] = False
    positives %= 4
    allowed[np.arange(3), positives] = True
    q, other = torch.tensor(q), torch.tensor(d)
    before = _torch(q, other.clone(), positives, allowed, 0.1)
    other[4] = 100.0
    assert float(_torch(q, other, positives, allowed, 0.1)) == float(before)


def test_similarity_is_float32_under_autocast():
    # Two documents whose cosines differ by less than one step of bfloat16.
    q = torch.tensor([[1.0, 0.0]])
    d = torch.tensor([[0.7000, 0.7141], [0.7005, 0.7136]])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = infonce(q, d, positives=torch.tensor([0]), allowed=torch.ones(1, 2, dtype=torch.bool), temperature=0.01)
    assert loss.dtype == torch.float32
    assert float(loss) == pytest.approx(np.log1p(np.exp(0.05)), abs=1e-4)


def test_wrong_shapes_are_told():
    q, d, positives, allowed = _case(2, 3, 5)
    with pytest.raises(ValueError, match=r"expected \(3, 5\)"):
        _torch(torch.tensor(q), torch.tensor(d), positives, allowed[:, :4].copy(), 0.1)
    allowed[0, positives[0]] = False
    with pytest.raises(ValueError, match="not allowed"):
        _torch(torch.tensor(q), torch.tensor(d), positives, allowed, 0.1)
