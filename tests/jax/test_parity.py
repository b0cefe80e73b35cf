"""Hidden states of real tokens against transformers' own, float32 on the CPU."""

from __future__ import annotations

import numpy as np
import pytest
from tests.torch.backbones import DECODERS, make

import jax
import torch
from teva_jax import Retriever, make_mesh

# Full length, short, one token, a text without its end; `<pad>` inside a text is a trap of RoBERTa's positions.
IDS = [[3, 5, 9, 11, 20, 21, 8, 30, 31, 7, 2], [3, 12, 2], [3], [3, 40, 41, 1, 6, 2, 9]]


@pytest.fixture(scope="module")
def mesh():
    return make_mesh(data=1, fsdp=1, devices=jax.devices()[:1])


@pytest.mark.parametrize("name", ["Bert", "XLMRoberta", *DECODERS])
def test_hidden_states(tmp_path, mesh, name):
    from transformers import AutoModel

    path = make(tmp_path / "model", name)
    retriever, params = Retriever.load(path, mesh, pooling="last")
    ids = np.zeros((len(IDS), 11), np.int32)
    for row, tokens in enumerate(IDS):
        ids[row, : len(tokens)] = tokens
    lengths = np.array([len(tokens) for tokens in IDS], np.int32)
    hidden = np.asarray(jax.jit(retriever.model.hidden)(params, ids, lengths))
    model = AutoModel.from_pretrained(path, attn_implementation="eager").eval()
    for row, tokens in enumerate(IDS):
        with torch.no_grad():
            expected = model(input_ids=torch.tensor([tokens])).last_hidden_state[0].numpy()
        np.testing.assert_allclose(hidden[row, : len(tokens)], expected, rtol=0, atol=1e-5)
