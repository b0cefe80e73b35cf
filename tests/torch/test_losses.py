"""InfoNCE in all its directions: against the oracle, against the plain matrix, against the peer, at its borders."""

from __future__ import annotations

import dataclasses
import math
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.reference import losses as reference

import torch
from teva_torch.losses import InfoNCE, Targets, infonce
from teva_torch.losses.exclusion import ListedPairs
from teva_torch.losses.tiled import group_similarity, log_sum_exp

from .loss_cases import agree, gradients, make_case, relative

ALL = ("query_to_document", "document_to_query", "query_to_query", "document_to_document")
WAYS = [ALL[:1], ALL[:2], (ALL[0], ALL[2]), (ALL[0], ALL[3]), ALL]


def _oracle(case, own, t, directions=ALL[:1], margin=None, ratio=None):
    return lambda q, d: reference.infonce(
        q, d, case.positive, case.relevant, case.groups, own, t, directions, margin, ratio
    )


@pytest.mark.parametrize("directions", WAYS)
@pytest.mark.parametrize("normalize", [True, False])
def test_value_and_gradient_are_the_oracles(directions, normalize):
    for seed in range(3):
        case = make_case(seed, normalize=normalize)
        for tile in (2, None):
            loss = InfoNCE(0.1, directions=directions, tile=tile)
            agree(loss, _oracle(case, case.whole, 0.1, directions), case)


@given(
    seed=st.integers(0, 10**6),
    queries=st.integers(1, 6),
    documents=st.integers(1, 9),
    t=st.floats(0.05, 2),
    tile=st.integers(1, 12),
    directions=st.sampled_from(WAYS),
    margin=st.none() | st.floats(-0.5, 0.5),
    ratio=st.none() | st.floats(0.5, 1.5),
)
@settings(max_examples=60, deadline=None)
def test_any_batch_gives_the_oracles_value(seed, queries, documents, t, tile, directions, margin, ratio):
    case = make_case(seed, queries, documents, negatives=2)
    found = infonce(
        *case.tensors(), case.targets(), temperature=t, directions=directions, margin=margin, ratio=ratio, tile=tile
    )
    expected = _oracle(case, case.whole, t, directions, margin, ratio)(case.queries, case.documents)
    assert float(found.detach()) == pytest.approx(expected, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("directions", [ALL[:1], ALL])
@pytest.mark.parametrize(("margin", "ratio"), [(0.05, None), (-0.2, None), (None, 0.9), (0.1, 0.95)])
def test_false_negatives_are_left_out_without_gradient(directions, margin, ratio):
    case = make_case(11, queries=6, documents=12)
    loss = InfoNCE(0.1, directions=directions, margin=margin, ratio=ratio, tile=5)
    agree(loss, _oracle(case, case.whole, 0.1, directions, margin, ratio), case)
    without = _oracle(case, case.whole, 0.1, directions)(case.queries, case.documents)
    assert abs(float(gradients(loss, case)[0]) - without) > 1e-3, "nothing was left out"


@pytest.mark.parametrize("directions", [ALL[:1], ALL])
def test_every_tile_gives_the_same(directions):
    case = make_case(5, queries=13, documents=29, negatives=4, dim=16)
    options = {"directions": directions, "margin": 0.2}
    expected = gradients(InfoNCE(0.07, **options, tile=1000), case)
    for tile in (1, 2, 3, 7, 12, 13, 14, 28, 29, 30):
        found = gradients(InfoNCE(0.07, **options, tile=tile), case)
        for one, other in zip(found, expected, strict=True):
            assert relative(one, other.double().numpy()) <= 1e-6


def test_it_is_cross_entropy_of_the_whole_matrix():
    case = make_case(8, queries=40, documents=90, dim=32)
    queries, documents = case.tensors()
    out = torch.zeros(40, 90, dtype=torch.bool)
    excluded = case.targets().excluded
    out[excluded[:, 0], excluded[:, 1]] = True
    logits = (queries @ documents.T / 0.02).masked_fill(out, -torch.inf)
    torch.nn.functional.cross_entropy(logits, case.targets().positives).backward()
    _, *found = gradients(InfoNCE(0.02, tile=16), case)
    for one, other in zip(found, (queries.grad, documents.grad), strict=True):
        assert relative(one, other.double().numpy()) <= 1e-6


@pytest.mark.parametrize("world", [2, 3, 5, 8])
@pytest.mark.parametrize("directions", [ALL[:1], ALL])
def test_the_parts_of_several_processes_sum_to_the_whole(world, directions):
    case = make_case(21, queries=7, documents=15)
    loss = InfoNCE(0.1, learn_temperature=True, directions=directions, tile=4)
    whole = [*gradients(loss, case), loss.log_scale.grad.clone()]
    loss.zero_grad()
    sums = None
    for rank in range(world):  # eight processes of seven queries: one has none
        own = (rank * 7 // world, (rank + 1) * 7 // world)
        part = gradients(loss, case, case.targets(own))
        sums = part if sums is None else [a + b for a, b in zip(sums, part, strict=True)]
    for one, other in zip([*sums, loss.log_scale.grad], whole, strict=True):
        assert relative(one, other.double().numpy()) <= 1e-5


def test_one_process_of_several_equals_the_oracle():
    case = make_case(4, queries=6)
    agree(InfoNCE(0.1, directions=ALL), _oracle(case, (2, 5), 0.1, ALL), case, own=(2, 5))


def test_the_peers_loss_has_the_same_value_and_gradient():
    # sentence-transformers: its batch is pairs and one hard negative each, no document twice.
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
    from sentence_transformers.util import dot_score

    queries, documents = (torch.nn.functional.normalize(torch.randn(n, 16), dim=1) for n in (9, 18))
    numbers = torch.arange(9)
    none = torch.zeros(0, 2, dtype=torch.int64)
    groups = torch.stack([numbers, numbers + 9], dim=1)
    targets = Targets((0, 9), numbers, groups, torch.full((9, 2), math.nan), none, numbers, none)
    theirs = {"query_to_document": "query_to_doc", "document_to_query": "doc_to_query"}
    theirs |= {"query_to_query": "query_to_query", "document_to_document": "doc_to_doc"}
    for directions in WAYS:
        chosen = tuple(theirs[one] for one in directions)
        peer = MultipleNegativesRankingLoss(None, scale=20.0, similarity_fct=dot_score, directions=chosen)
        q, d = queries.clone().requires_grad_(), documents.clone().requires_grad_()
        expected = peer.compute_loss_from_embeddings([q, d[:9], d[9:]], None)
        expected.backward()
        ours_q, ours_d = queries.clone().requires_grad_(), documents.clone().requires_grad_()
        found = infonce(ours_q, ours_d, targets, temperature=0.05, directions=directions, tile=5)
        found.backward()
        assert float(found.detach()) == pytest.approx(float(expected.detach()), rel=1e-6)
        assert relative(ours_q.grad, q.grad.double().numpy()) <= 1e-5
        assert relative(ours_d.grad, d.grad.double().numpy()) <= 1e-5


def test_a_learned_temperature_has_the_oracles_gradient():
    case = make_case(3)
    loss = InfoNCE(0.2, learn_temperature=True, directions=ALL, margin=0.1)
    loss(*case.tensors(), case.targets()).backward()
    value = np.array([-math.log(0.2)])
    expected = reference.numerical_gradient(
        lambda s: _oracle(case, case.whole, math.exp(-s[0]), ALL, 0.1)(case.queries, case.documents), value
    )
    assert float(loss.log_scale.grad) == pytest.approx(expected[0], rel=1e-5)


def test_a_learned_temperature_stays_at_or_above_a_hundredth():
    case = make_case(3)
    loss = InfoNCE(0.01, learn_temperature=True)
    with torch.no_grad():
        loss.log_scale += 3.0
    loss(*case.tensors(), case.targets()).backward()
    assert float(loss.temperature.detach()) == pytest.approx(0.01)
    assert float(loss.log_scale.grad) != 0, "it could not come back"
    with pytest.raises(ValueError, match=r"at least 0\.01"):
        InfoNCE(0.005, learn_temperature=True)
    with pytest.raises(ValueError, match="above 0"):
        InfoNCE(0.0)


@pytest.mark.parametrize("t", [1e-4, 1e-2, 1.0, 100.0])
def test_extreme_temperatures_stay_finite(t):
    case = make_case(2, queries=6, documents=20)
    found = gradients(InfoNCE(t, tile=6, directions=ALL), case)
    assert all(part.isfinite().all() for part in found)
    expected = _oracle(case, case.whole, t, ALL)(case.queries, case.documents)
    # At 1e-4 a similarity's last bit in float32 is worth 6e-4 in the logit.
    assert float(found[0]) == pytest.approx(expected, rel=1e-5, abs=max(1e-5, 1e-7 / t))


def test_a_loss_near_zero_keeps_its_digits():
    queries, documents = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    none = torch.zeros(0, 2, dtype=torch.int64)
    zero = torch.tensor([0])
    targets = Targets((0, 1), zero, zero[:, None], torch.zeros(1, 1), none)
    found = infonce(queries, documents, targets, temperature=1 / 30)
    assert float(found) == pytest.approx(math.exp(-30), rel=1e-5)  # log(1 + this) rounds to 0


@pytest.mark.parametrize("directions", [ALL[:1], ALL])
def test_all_but_the_positive_excluded_gives_zero_and_no_gradient(directions):
    case = make_case(1, queries=3, documents=4)
    case.positive, case.relevant = [0, 1, 2], [{0, 1, 2, 3}] * 3
    value, *both = gradients(InfoNCE(0.05, directions=directions, tile=2), case)
    assert float(value) == pytest.approx(math.log(2) if len(directions) > 1 else 0, abs=1e-6)
    assert all(bool(part.isfinite().all()) and float(part.abs().max()) <= 1e-6 for part in both)


@pytest.mark.parametrize("tile", [3, None])
def test_the_temperature_is_never_dropped(tile):
    # A published toolkit drops it in one of its paths.
    case = make_case(1)
    values = [float(gradients(InfoNCE(t, tile=tile, directions=ALL), case)[0]) for t in (0.01, 0.1, 1.0)]
    assert min(abs(a - b) for a, b in pairwise(values)) > 0.1


def test_a_pair_that_falls_back_under_its_limit_has_a_bounded_share():
    # Backward computes each tile again. Should one bit differ there, a pair may be in that was out of the sum.
    passes = []

    def first_time_only(tile, rows, columns):
        passes.append(rows)
        if len(passes) == 1:
            tile[0, 1] = -torch.inf

    rows = torch.tensor([[1.0]], requires_grad=True)
    columns = torch.tensor([[1.0], [60.0]])
    log_sum_exp(rows, columns, first_time_only, limit=torch.tensor([60.0]), tile=8).sum().backward()
    assert len(passes) == 2
    assert float(rows.grad.abs().max()) <= 61


def test_a_document_left_out_changes_nothing():
    case = make_case(2)
    case.relevant = [right | {8} for right in case.relevant]
    case.positive = [p if p != 8 else 7 for p in case.positive]
    before = gradients(InfoNCE(0.1), case)
    case.documents[8] = 100.0
    after = gradients(InfoNCE(0.1), case)
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))


def test_similarity_is_float32_whatever_the_surroundings():
    # Two documents whose cosines differ by less than one step of bfloat16.
    q = torch.tensor([[1.0, 0.0]], requires_grad=True)
    d = torch.tensor([[0.7000, 0.7141], [0.7005, 0.7136]])
    none, zero = torch.zeros(0, 2, dtype=torch.int64), torch.tensor([0])
    targets = Targets((0, 1), zero, zero[:, None], torch.zeros(1, 1), none)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")  # on some CPUs too it means bfloat16
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = infonce(q, d, targets, temperature=0.01)
            loss.backward()
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
    assert loss.dtype == torch.float32
    assert float(loss.detach()) == pytest.approx(np.log1p(np.exp(0.05)), abs=1e-4)
    share = 1 / (1 + math.exp(-0.05))
    np.testing.assert_allclose(q.grad[0].numpy(), share * (d[1] - d[0]).numpy() / 0.01, rtol=1e-3)


def test_no_setting_of_products_reaches_the_sums():
    # Which of them lose digits depends on the machine, so it is asked what holds while they are computed.
    seen = []

    def look(tile, rows, columns):
        backends = torch.backends
        seen.append((backends.cuda.matmul.fp32_precision, backends.mkldnn.matmul.fp32_precision))
        seen.append(torch.is_autocast_enabled("cpu"))
        if len(seen) > 4:
            raise RuntimeError("enough")

    rows, columns = torch.ones(2, 3, requires_grad=True), torch.ones(4, 3)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            result = log_sum_exp(rows, columns, look)
            result.sum().backward()
            with pytest.raises(RuntimeError, match="enough"):
                log_sum_exp(rows, columns, look)
            assert torch.is_autocast_enabled("cpu")
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)
    assert seen == [("ieee", "ieee"), False] * 3


def test_bfloat16_vectors_are_taken_as_they_are():
    case = make_case(6)
    value, *both = gradients(InfoNCE(0.1), case, dtype=torch.bfloat16)
    rounded = dataclasses.replace(case, queries=_bfloat16(case.queries), documents=_bfloat16(case.documents))
    expected, *grads = gradients(InfoNCE(0.1), rounded)
    assert (value.dtype, both[0].dtype) == (torch.float32, torch.bfloat16)
    assert float(value) == float(expected)
    assert all(torch.equal(one, other.bfloat16()) for one, other in zip(both, grads, strict=True))


def _bfloat16(vectors):
    return torch.tensor(vectors).bfloat16().double().numpy()


def test_a_vector_that_is_not_a_number_is_not_hidden():
    case = make_case(6)
    case.documents[3, 0] = math.nan
    case.relevant = [right - {3} or {0} for right in case.relevant]
    case.positive = [min(right) for right in case.relevant]
    assert gradients(InfoNCE(0.1, tile=4), case)[0].isnan()


def test_the_tiled_sum_passes_gradcheck():
    torch.manual_seed(0)
    rows, columns = (torch.randn(n, 3, dtype=torch.float64, requires_grad=True) for n in (5, 7))
    limit = torch.full((5,), 0.7, dtype=torch.float64)
    for tile in (2, 9):
        left_out = ListedPairs(torch.tensor([[0, 1], [4, 6], [0, 1]]), tile, 7)
        function = partial(log_sum_exp, leave_out=left_out, limit=limit, tile=tile)
        assert torch.autograd.gradcheck(function, (rows, columns))
    groups = torch.tensor([[0, 1, -1], [2, 2, 2], [6, -1, -1], [0, 6, 3], [1, 0, 5]])
    assert torch.autograd.gradcheck(lambda r, c: group_similarity(r, c, groups), (rows, columns))


def test_what_does_not_fit_is_told():
    case = make_case(2)
    q, d = case.tensors()
    targets = case.targets()
    for change, words in (
        ({"positives": targets.positives[:3]}, r"positives \(3,\); expected \(5,\)"),
        ({"scores": targets.scores[:, :2]}, r"scores \(5, 2\); expected \(5, 4\)"),
        ({"excluded": targets.excluded[:, 0]}, r"expected \[M, 2\]"),
        ({"own": (0, 6)}, "expected a part of 0 to 5"),
        ({"all_positives": targets.positives[:3]}, r"all_positives \(3,\); expected \(5,\)"),
    ):
        with pytest.raises(ValueError, match=words):
            infonce(q, d, dataclasses.replace(targets, **change), temperature=0.1)
    with pytest.raises(ValueError, match=r"\[Q, H\] and \[D, H\]"):
        infonce(q, d[:, :3], targets, temperature=0.1)
    with pytest.raises(ValueError, match="query_to_document"):
        infonce(q, d, targets, temperature=0.1, directions=["query_to_query"])
    with pytest.raises(ValueError, match="tile 0"):
        infonce(q, d, targets, temperature=0.1, tile=0)
    alone = dataclasses.replace(targets, all_positives=None, all_excluded=None)
    with pytest.raises(ValueError, match="all_excluded are missing"):
        infonce(q, d, alone, temperature=0.1, directions=ALL)
    assert infonce(q, d, alone, temperature=0.1, directions=(ALL[0], ALL[3])).isfinite()
