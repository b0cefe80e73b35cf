"""Plain and cached, by one process and by two, over any chunks: one gradient."""

from __future__ import annotations

import dataclasses

import pytest
from benchmarks import gradients
from benchmarks.gradients import cases, gradients_of, make_loss, make_model, relative_difference, token_batch

import torch
from teva_torch.caching import BatchGradient, Encoding, PassError, Passes, RandomState
from teva_torch.distributed import Processes
from teva_torch.guards import TrainingError
from teva_torch.losses import Targets

MOST = 1e-5


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return gradients.make_data(tmp_path_factory.mktemp("gradients"))


@pytest.fixture(scope="module")
def by_two(data, tmp_path_factory):
    """All cases by two real processes over gloo."""
    return gradients.by_processes(2, data, tmp_path_factory.mktemp("by-two") / "gradients.safetensors")


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.name)
def test_one_process_has_the_plain_gradient(case, data):
    whole, each = relative_difference(gradients.by_teva(case, data), gradients.plainly(case.alone, data))
    assert whole <= MOST
    assert each <= 10 * MOST


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.name)
def test_two_processes_have_the_plain_gradient(case, data, by_two):
    whole, each = relative_difference(by_two[case.name], gradients.plainly(case.alone, data))
    assert whole <= MOST
    assert each <= 10 * MOST


def _gradients_over_chunks(model_name, item, tokens, cached, dropout, seed, check="all"):
    """The gradient of one batch with dropout, the random state given."""
    model = make_model(model_name, dropout=dropout)
    torch.manual_seed(seed)
    BatchGradient(model, make_loss("infonce"), Passes(tokens, cached, check)).add(item)
    return gradients_of(model)


@pytest.mark.parametrize("model", gradients.MODELS)
def test_with_dropout_cached_is_the_uncached_step_over_the_same_chunks(model, data):
    # Both draw chunk after chunk from the same state, so the plain step is the oracle for what is replayed.
    item = token_batch(data)
    plain, cached = (_gradients_over_chunks(model, item, 24, kind, 0.2, seed=5) for kind in (False, True))
    assert relative_difference(cached, plain)[0] <= MOST
    other = _gradients_over_chunks(model, item, 24, False, 0.2, seed=6)
    assert relative_difference(other, plain)[0] > 0.05  # dropout does something here


@pytest.mark.parametrize("model", gradients.MODELS)
@pytest.mark.parametrize("dropout", [0.01, 0.2])
def test_another_random_state_in_the_second_pass_is_caught(model, dropout, data, monkeypatch):
    monkeypatch.setattr(RandomState, "restore", lambda self: None)
    with pytest.raises(PassError, match=r"second pass over chunk 1 of \d+ of the query texts.*random state differs"):
        _gradients_over_chunks(model, token_batch(data), 24, True, dropout, seed=5, check="first")


def test_a_model_that_keeps_a_state_is_caught_in_the_chunk_where_it_shows(data):
    model = make_model("bert")
    calls = []

    def drift(module, inputs, output):
        calls.append(1)
        return output + (len(calls) > 20) * 0.1 * torch.arange(output.shape[-1])

    model.backbone.embeddings.register_forward_hook(drift)
    step = BatchGradient(model, make_loss("infonce"), Passes(24, cached=True, check="all"))
    with pytest.raises(PassError, match=r"chunk \d+ of \d+ of the (query|document) texts"):
        step.add(token_batch(data))


def test_caching_leaves_the_generators_where_the_first_pass_did(data):
    states = []
    for cached in (False, True):
        model = make_model("bert", dropout=0.2)
        torch.manual_seed(3)
        step = BatchGradient(model, make_loss("infonce"), Passes(24, cached))
        encodings = step.encode(token_batch(data))
        states.append(torch.get_rng_state())
        for encoding in encodings:  # whichever goes back first, what is drawn next does not hang on it
            encoding.backward(torch.ones_like(encoding.vectors))
            states.append(torch.get_rng_state())
    assert all(torch.equal(state, states[0]) for state in states)


def test_equal_texts_are_encoded_once_under_whatever_id(monkeypatch):
    model, seen = make_model("bert"), []
    original = type(model).forward
    monkeypatch.setattr(
        type(model), "forward", lambda self, ids, mask: seen.append(len(ids)) or original(self, ids, mask)
    )
    texts = [[1, 2, 3], [4, 5], [1, 2, 3], [4, 5], [6]]
    encoding = Encoding(model, texts, Passes(10**6), "query").forward()
    assert sum(seen) == 3
    assert torch.equal(encoding.vectors[0], encoding.vectors[2])
    wanted = torch.cat([original(model, *model.pad([ids])) for ids in texts])
    torch.testing.assert_close(encoding.vectors, wanted.detach())
    weight = torch.arange(len(texts) * 32.0).reshape(len(texts), 32)
    encoding.backward(weight)
    found = gradients_of(model)
    model.zero_grad()
    (wanted * weight).sum().backward()
    assert relative_difference(found, gradients_of(model))[0] <= MOST


@pytest.mark.parametrize("cached", [False, True])
def test_bfloat16_passes_train_float32_weights(cached, data):
    # Weights that autocast had cast without a gradient must not be taken again in the second pass.
    found = {}
    for precision in (torch.float32, torch.bfloat16):
        model = make_model("bert")
        BatchGradient(model, make_loss("infonce"), Passes(24, cached, precision=precision)).add(token_batch(data))
        found[precision] = gradients_of(model)
    assert {gradient.dtype for gradient in found[torch.bfloat16].values()} == {torch.float32}
    assert relative_difference(found[torch.bfloat16], found[torch.float32])[0] < 0.2


class _Learned(torch.nn.Module):
    """A loss with a parameter of its own."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(3.0))

    def forward(self, queries, documents, targets):
        scores = self.scale * queries[slice(*targets.own)] @ documents.T
        return torch.nn.functional.cross_entropy(scores, targets.positives, reduction="sum") / len(queries)


@pytest.mark.parametrize("cached", [False, True])
def test_a_loss_learns_too(cached, data):
    item, model, loss = token_batch(data), make_model("bert"), _Learned()
    step = BatchGradient(model, loss, Passes(24, cached))
    assert set(dict(step.module.named_parameters())) >= {"loss.scale", "retriever.backbone.embeddings.LayerNorm.weight"}
    value = step.add(item)
    found = loss.scale.grad.clone()
    loss.zero_grad()
    vectors = [
        Encoding(model, ids, Passes(10**6), "query").forward().vectors for ids in (item.query_ids, item.document_ids)
    ]
    expected = loss(*vectors, Targets.of(item.batch, "cpu"))
    expected.backward()
    assert value == pytest.approx(float(expected.detach()), rel=1e-5)
    assert float(found) == pytest.approx(float(loss.scale.grad), rel=1e-4)


@pytest.mark.parametrize("cached", [False, True])
def test_defect_4_accumulation_is_the_mean_of_its_batches(cached, data):
    single = []
    for step in (0, 1, 2):
        model = make_model("bert")
        BatchGradient(model, make_loss("infonce"), Passes(24, cached)).add(token_batch(data, step))
        single.append(gradients_of(model))
    model = make_model("bert")
    step = BatchGradient(model, make_loss("infonce"), Passes(24, cached))
    for number in (0, 1, 2):
        step.add(token_batch(data, number), 1 / 3)
    mean = {name: sum(one[name] for one in single) / 3 for name in single[0]}
    assert relative_difference(gradients_of(model), mean)[0] <= MOST


def test_defect_3_caching_keeps_the_temperature(data, monkeypatch):
    found = {}
    for temperature in (0.05, 1.0):
        monkeypatch.setitem(gradients.LOSSES, "infonce", {"temperature": temperature})
        for cached in (False, True):
            step = BatchGradient(make_model("bert"), make_loss("infonce"), Passes(24, cached))
            found[temperature, cached] = step.add(token_batch(data))
    assert found[0.05, True] == pytest.approx(found[0.05, False], rel=1e-6)
    assert found[1.0, True] == pytest.approx(found[1.0, False], rel=1e-6)
    assert abs(found[0.05, True] - found[1.0, True]) > 0.1


def test_defect_14_distillation_takes_ids_and_two_processes(data, by_two):
    case = gradients.Case("bert", "full", "distillation, kl", "cached unequal")
    found = by_two[case.name]
    assert relative_difference(found, gradients.plainly(case.alone, data))[0] <= MOST
    # The scores decide: without them there would be nothing to learn from.
    item = token_batch(data)
    assert not bool(torch.from_numpy(item.batch.scores).isnan().all())
    scores = item.batch.scores.copy()
    loss, value = make_loss(case.loss), []
    for swapped in (scores, -scores):
        batch = dataclasses.replace(item.batch, scores=swapped)
        value.append(BatchGradient(make_model("bert"), loss, Passes(24)).add(dataclasses.replace(item, batch=batch)))
    assert abs(value[0] - value[1]) > 1e-3


def test_defect_9_the_loss_sees_float32_vectors_in_bfloat16_training(data):
    seen = []

    def loss(queries, documents, targets):
        assert not torch.is_autocast_enabled("cpu")
        seen.extend([queries.dtype, documents.dtype, (queries @ documents.T).dtype])
        return (queries @ documents.T).sum()

    for cached in (False, True):
        BatchGradient(make_model("bert"), loss, Passes(24, cached, precision=torch.bfloat16)).add(token_batch(data))
    assert set(seen) == {torch.float32}


@pytest.mark.parametrize("cached", [False, True])
def test_texts_whose_vectors_are_not_finite_are_named(cached, data):
    item = token_batch(data)
    bad, model = item.document_ids[3][0], make_model("bert")
    with torch.no_grad():
        model.backbone.embeddings.word_embeddings.weight[bad] = float("nan")
    named = [one.docid for one, ids in zip(item.batch.documents, item.document_ids, strict=True) if bad in ids]
    asked = [one.query_id for one, ids in zip(item.batch.queries, item.query_ids, strict=True) if bad in ids]
    with pytest.raises(TrainingError) as error:
        BatchGradient(model, make_loss("infonce"), Passes(24, cached)).add(item)
    assert f"{len(named)} of {len(item.document_ids)} documents ({', '.join(named[:8])}" in str(error.value)
    assert (f"{len(asked)} of {len(item.query_ids)} queries ({', '.join(asked[:8])}" in str(error.value)) == bool(asked)


@pytest.mark.parametrize(
    ("loss", "told"),
    [
        (lambda queries, documents, targets: (queries @ documents.T).sum(1), r"gave a tensor \[\d+\]; expected one"),
        (lambda queries, documents, targets: 1.0, "gave float; expected one number"),
        (lambda queries, documents, targets: queries.detach().sum(), "has no gradient"),
    ],
)
def test_what_is_no_loss_is_told(loss, told, data):
    with pytest.raises(TrainingError, match=told):
        BatchGradient(make_model("bert"), loss, Passes(24)).add(token_batch(data))


def test_queries_whose_own_loss_is_not_finite_are_named(data):
    item = token_batch(data)

    def loss(queries, documents, targets):
        rows = torch.arange(*targets.own)
        return torch.where((rows == 4) | (rows == 7), float("inf"), 1.0).sum() * queries.sum() / len(queries)

    names = [item.batch.queries[row].query_id for row in (4, 7)]
    with pytest.raises(TrainingError, match=rf"the loss is (-inf|inf); queries {names[0]}, {names[1]}\. "):
        BatchGradient(make_model("bert"), loss, Passes(24)).add(item)


@pytest.mark.parametrize(
    ("passes", "first"),
    [
        (Passes(64), r"torch\.gradient_cache true \(keeps the activations of 64 tokens instead of the batch's \d+\)"),
        (Passes(64, cached=True), r"torch\.chunk_tokens 32 \(now 64\)"),
        (Passes(4, cached=True), r"a lower model\.document_max_length \(one text of \d+ tokens is a chunk by itself\)"),
    ],
)
@pytest.mark.parametrize("kind", ["cuda", "cpu"])
def test_out_of_memory_names_what_would_help_most(passes, first, kind, data):
    errors = {
        "cuda": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        "cpu": RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: not enough memory: you"),
    }
    model = make_model("bert")

    def fail(module, inputs, output):
        raise errors[kind]

    model.backbone.encoder.layer[1].register_forward_hook(fail)
    with pytest.raises(TrainingError, match=rf"out of memory in encoding, .* Would help most: {first}") as error:
        BatchGradient(model, make_loss("infonce"), passes).add(token_batch(data))
    assert isinstance(error.value.__cause__, RuntimeError)


def test_out_of_memory_in_the_loss_names_the_scores(data):
    def loss(queries, documents, targets):
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(TrainingError, match=r"out of memory in the loss, .* a lower train\.batch_size or data\.negat"):
        BatchGradient(make_model("bert"), loss, Passes(24)).add(token_batch(data))


def test_another_error_stays_what_it_is(data):
    def loss(queries, documents, targets):
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        BatchGradient(make_model("bert"), loss, Passes(24), Processes()).add(token_batch(data))


def _kept(cached, batch_size, data):
    """Bytes that autograd keeps of the encoder at most, in one step."""
    from benchmarks.activations import kept_of

    model = make_model("bert")
    with kept_of(model) as kept:
        item = token_batch(data, batch_size=batch_size)
        BatchGradient(model, make_loss("infonce"), Passes(64, cached)).add(item)
    assert kept.now == 0  # the step leaves nothing behind
    return kept.most


def test_activations_of_caching_do_not_grow_with_the_batch(tmp_path):
    data = gradients.make_data(tmp_path / "large", queries=300, documents=500)
    cached = [_kept(True, size, data) for size in (16, 64, 256)]
    assert max(cached) <= 1.1 * min(cached)
    plain = [_kept(False, size, data) for size in (16, 64, 256)]
    assert plain[2] > 5 * plain[0] > 5 * cached[0]


@pytest.mark.parametrize("model_name", gradients.MODELS)
def test_checkpointed_layers_draw_what_they_drew(model_name, data):
    # Two replays, one in the other: that of the chunk and, within its second pass, that of each layer.
    from teva_torch.backbones import checkpoint_gradients

    item, found = token_batch(data), []
    for checkpointed in (False, True):
        model = make_model(model_name, dropout=0.2)
        if checkpointed:
            checkpoint_gradients(model.backbone)
        torch.manual_seed(5)
        BatchGradient(model, make_loss("infonce"), Passes(24, checkpointed, check="all")).add(item)
        found.append(gradients_of(model))
    assert relative_difference(found[1], found[0])[0] <= MOST
