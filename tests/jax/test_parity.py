"""Hidden states of real tokens against transformers' own, float32 on the CPU: every family, and what sets traps."""

from __future__ import annotations

import pytest
from benchmarks.jax_models import CASES, Case, _minilm, _real_texts, compare, make, texts

ONE = {"one device": (1, 1, 1)}
# One of each family and of each trap; all of them in the long tier and in the claim `jax_forward_parity`.
SHORT = {
    "bert", "xlm-roberta", "llama, rope of 3.1, tied", "mistral, window 6 both ways", "qwen2, last layer slides",
    "qwen3", "gemma2", "gemma3, both ways",
}  # fmt: skip


@pytest.mark.parametrize("name", [n if n in SHORT else pytest.param(n, marks=pytest.mark.slow) for n in CASES])
def test_hidden_states(tmp_path, name):
    case = CASES[name]
    found = compare(make(tmp_path, case), case, texts(), ONE)
    size = found.pop("size of the largest state")
    assert size > 1
    assert len(found) == 2 + case.decoder
    assert max(found.values()) <= 2e-5, found


def test_the_real_minilm():
    found = compare(_minilm(), Case("Bert"), _real_texts(), ONE)
    del found["size of the largest state"]
    assert max(found.values()) <= 1e-4, found


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("bert", {"num_attention_heads": 2}),
        ("mistral, window 6", {"sliding_window": 7}),
        ("gemma2", {"query_pre_attn_scalar": 8}),
    ],
)
def test_a_wrong_model_is_seen(tmp_path, name, changes):
    """The comparison can fail: transformers computes with one setting changed."""
    import json

    case = CASES[name]
    path = make(tmp_path, case)
    right = compare(path, case, texts(), ONE)
    from teva_jax import models

    config = json.loads((path / "config.json").read_text())
    original = models.read_config
    (path / "config.json").write_text(json.dumps({**config, **changes}))
    wrong_config = original(path)
    (path / "config.json").write_text(json.dumps(config))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "read_config", lambda *_, **__: wrong_config)
        wrong = compare(path, case, texts(), ONE)
    assert wrong["one device, alone"] > 100 * right["one device, alone"]
