from __future__ import annotations

import pytest
from tests.torch.backbones import ARCHITECTURES, make

import torch
from teva_data.artifact import Artifact
from teva_torch import short_attention
from teva_torch.model import Retriever
from teva_torch.training import train

LENGTHS = [23, 1, 7, 6, 5, 14]


def _texts():
    generator = torch.Generator().manual_seed(4)
    return [torch.randint(3, 44, (length,), generator=generator).tolist() for length in LENGTHS]


def _run(directory, attention, bidirectional, texts):
    model = Retriever.load(
        Artifact.load(directory), pooling="mean", normalize=True, attention=attention, bidirectional=bidirectional
    )
    model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    vectors = model.vectors(texts)
    vectors.square().mul(torch.arange(vectors.shape[1])).sum().backward()
    return vectors.detach(), [p.grad for p in model.parameters() if p.grad is not None]


@pytest.mark.parametrize("texts", [_texts(), [[5, 6, 7], [8, 9, 10]]], ids=["padded", "of one length"])
@pytest.mark.parametrize(
    ("name", "bidirectional"),
    [(name, None) for name in ARCHITECTURES if name != "Gemma2"] + [(name, True) for name in ("Llama", "Mistral")],
)
def test_vectors_and_gradients_are_those_of_sdpa(tmp_path, name, texts, bidirectional):
    directory = make(tmp_path / "model", name)
    found = _run(directory, short_attention.register(), bidirectional, texts)
    expected = _run(directory, "sdpa", bidirectional, texts)
    torch.testing.assert_close(found[0], expected[0], rtol=0, atol=2e-6)
    one, other = (torch.cat([gradient.flatten() for gradient in side[1]]) for side in (found, expected))
    assert (one - other).norm() <= 1e-5 * other.norm()


def test_dropout_drops_weights(tmp_path):
    module = torch.nn.Module()
    module.is_causal = False
    states = [torch.ones(1, 1, 64, 8) for _ in range(3)]
    kept, _ = short_attention.attention(module, *states, None)
    torch.testing.assert_close(kept, torch.ones(1, 64, 1, 8))
    dropped, _ = short_attention.attention(module, *states, None, dropout=0.5)
    assert dropped.std() > 0.05
    assert dropped.mean() == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize(("precision", "attention", "expected"), [
    ("bfloat16", "auto", short_attention.NAME), ("float32", "auto", "sdpa"), ("bfloat16", "sdpa", "sdpa"),
])  # fmt: skip
def test_chosen_for_bfloat16_on_a_cpu(recipe, monkeypatch, precision, attention, expected):
    used, seen = short_attention.attention, []

    def spy(module, query, *rest, **options):
        seen.append(query.dtype)
        return used(module, query, *rest, **options)

    monkeypatch.setattr(short_attention, "attention", spy)
    recipe["train"]["precision"] = precision
    recipe["torch"] = {"device": "cpu", "attention": attention}
    result = train(recipe)
    assert bool(seen) is (expected == short_attention.NAME)
    # The artifact names no attention of ours: whoever loads it chooses.
    assert short_attention.NAME not in (result.artifact.path / "config.json").read_text()
