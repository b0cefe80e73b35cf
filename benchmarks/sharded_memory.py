"""What a process holds of a model under a strategy, measured: bytes of all tensors that are alive.

    python -m torch.distributed.run --standalone --nproc-per-node 2 -m benchmarks.sharded_memory STRATEGY OUT

Two steps of a BERT of 6 layers, hidden size 512; process 0 writes the largest of the processes' figures as JSON to OUT.
"""

from __future__ import annotations

import gc
import json
import sys
from pathlib import Path

import torch
from benchmarks import gradients
from teva_data.recipe import TrainSection
from teva_torch.caching import BatchGradient, Passes
from teva_torch.distributed import join
from teva_torch.model import Retriever
from teva_torch.pooling import mean_pooling
from teva_torch.recipe import TorchSection
from teva_torch.strategies import prepare

HIDDEN, LAYERS, VOCABULARY = 512, 6, 20_000


def make_model() -> Retriever:
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    shape = BertConfig(
        vocab_size=VOCABULARY, hidden_size=HIDDEN, num_hidden_layers=LAYERS, num_attention_heads=8,
        intermediate_size=4 * HIDDEN, max_position_embeddings=64, hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    return Retriever(BertModel(shape, add_pooling_layer=False), mean_pooling, normalize=True, pad_id=0).train()


def alive() -> int:
    """Bytes of the storages of all tensors, each counted once."""
    gc.collect()
    seen: dict[int, int] = {}
    for one in gc.get_objects():
        if isinstance(one, torch.Tensor):
            for tensor in (one, one.grad if one.is_leaf else None):
                tensor = getattr(tensor, "_local_tensor", tensor)
                if tensor is not None and tensor.device.type == "cpu":
                    storage = tensor.untyped_storage()
                    seen[storage.data_ptr()] = storage.nbytes()
    return sum(seen.values())


def main() -> None:
    name, out = sys.argv[1], Path(sys.argv[2])
    keys = gradients.STRATEGIES.get(name, {"strategy": "ddp"})
    options = TorchSection.model_validate({"device": "cpu", **keys})
    with join("cpu", 120) as processes:
        data = out.parent / f"data-{processes.rank}"
        gradients.make_data(data)
        before = alive()
        model, loss = make_model(), gradients.make_loss("infonce")
        parameters = sum(one.numel() for one in model.parameters())
        settings = TrainSection(output="-", steps=1)
        strategy = prepare(options.strategy, model, loss, settings, options, processes, torch.device("cpu"))
        step = BatchGradient(model, loss, Passes(64, cached=True), processes, strategy)
        found = {}
        for number in range(2):
            strategy.zero_grad()
            step.add(gradients.token_batch(data, number, processes))
            found["with gradients"] = alive() - before
            strategy.update(1e-4, lambda norm: None)
            strategy.zero_grad()
            found["between steps"] = alive() - before
        found = {key: processes.largest(value) for key, value in found.items()}
        if processes.main:
            out.write_text(json.dumps({"parameters": parameters, **found}))


if __name__ == "__main__":
    main()
