"""The gradient of one batch by every way that teva-torch has, beside the plainest way there is.

The tests and the claim ``gradients_equal`` compare them. Several processes are real ones::

    python -m torch.distributed.run --standalone --nproc-per-node 2 -m benchmarks.gradients DATA OUT

writes the gradients of all cases, as process 0 has them, to the safetensors file OUT.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import os
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from teva_data.feed import TokenBatch
    from teva_torch.distributed import Processes
    from teva_torch.model import Retriever
    from teva_torch.pair import RetrieverPair
    from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
VOCABULARY = 50
MODELS = ("bert", "llama")
PAIR = "pair of berts"  # one for queries and one for documents
# Name to what the recipe's loss section says.
LOSSES: dict[str, dict[str, Any]] = {
    "infonce": {"temperature": 0.05},
    "every direction, learned temperature": {
        "temperature": 0.05, "learn_temperature": True,
        "directions": ["query_to_document", "document_to_query", "query_to_query", "document_to_document"],
    },
    "masked": {"temperature": 0.05, "false_negative_margin": 0.1, "false_negative_ratio": 1.2},
    "matryoshka": {"temperature": 0.05, "matryoshka_dims": [8, 32]},
    "distillation, kl": {"name": "kl", "temperature": 0.05},
    "infonce and margin_mse": {"temperature": 0.05, "distillation": "margin_mse"},
}  # fmt: skip
# Name to (chunk_tokens, cached). Texts have 2 to 12 tokens: 24 makes chunks of 2 to 12 texts, the last ones cut short.
PASSES: dict[str, tuple[int, bool]] = {
    "plain": (10**6, False), "plain in chunks": (24, False), "cached": (10**6, True), "cached unequal": (24, True),
}  # fmt: skip
Gradients = dict[str, "Tensor"]


@dataclasses.dataclass(frozen=True)
class Case:
    """One way to one gradient."""

    model: str
    adapter: str
    loss: str
    passes: str

    @property
    def alone(self) -> Case:
        """The way that all ways to this gradient are compared with: see :func:`plainly`."""
        return dataclasses.replace(self, passes="")

    @property
    def name(self) -> str:
        return f"{self.model}, {self.adapter}, {self.loss}, {self.passes}"


def cases() -> list[Case]:
    """All of the matrix; of a pair of encoders with the loss that needs most of the other processes."""
    return [
        *(Case(*parts) for parts in itertools.product(MODELS, ADAPTERS, LOSSES, PASSES)),
        *(Case(*parts) for parts in itertools.product((PAIR,), ADAPTERS, ("masked",), PASSES)),
    ]


def make_data(directory: Path, queries: int = 26, documents: int = 40) -> Path:
    """A dataset with what makes columns differ: shared positives, one text under two ids, listed negatives, scores."""
    directory.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(7)
    with (directory / "corpus.jsonl").open("w") as file:
        file.writelines(json.dumps({"docid": f"d{n}", "document_text": f"text {n}"}) + "\n" for n in range(documents))
    rows = []
    for n in range(queries):
        own = [int(one) for one in random.choice(documents, 5, replace=False)]
        if n % 4 == 3:
            own[0] = int(rows[-1]["positive_document_ids"][0][1:])  # the positive of the query before it
            own[1:] = [one for one in own[1:] if one != own[0]] + [(own[0] + 1) % documents] * (own[0] in own[1:])
        rows.append({
            "query_id": f"q{n}", "query_text": f"query {n - n % 5 % 2}",
            "positive_document_ids": [f"d{own[0]}"], "positive_scores": [float(random.normal(3))],
            "negative_document_ids": [f"d{one}" for one in own[1:]],
            "negative_scores": [float(one) for one in random.normal(size=len(own) - 1)],
        })  # fmt: skip
    with (directory / "train.jsonl").open("w") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return directory


def make_model(kind: str, adapter: str = "full", *, dropout: float = 0.0, seed: int = 0) -> Retriever | RetrieverPair:
    """A random model of 2 layers: BERT with mean pooling, Llama with last-token pooling; vectors have length 1."""
    if kind == PAIR:
        from teva_torch.pair import RetrieverPair

        return RetrieverPair(*(_one_model("bert", adapter, dropout, one) for one in (seed, seed + 1))).train()
    return _one_model(kind, adapter, dropout, seed)


def _one_model(kind: str, adapter: str, dropout: float, seed: int) -> Retriever:
    from transformers import BertConfig, BertModel, LlamaConfig, LlamaModel

    import torch
    from teva_torch.model import Retriever
    from teva_torch.pooling import last_pooling, mean_pooling

    torch.manual_seed(seed)
    shape = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
             "intermediate_size": 64, "max_position_embeddings": 64}  # fmt: skip
    if kind == "bert":
        backbone: Any = BertModel(
            BertConfig(**shape, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout)
        )
        # Random BERTs of this size give all texts nearly one vector; larger weights tell texts apart.
        pooling = mean_pooling
    else:
        backbone = LlamaModel(LlamaConfig(**shape, num_key_value_heads=2, attention_dropout=dropout))
        pooling = last_pooling
    with torch.no_grad():
        for parameter in backbone.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4)
    model = Retriever(backbone, pooling, normalize=True, pad_id=0)
    model.backbone = ADAPTERS[adapter](model.backbone)
    return model.train()


def _lora(backbone: Any) -> Any:
    import torch
    from teva_torch.lora import add_lora
    from teva_torch.recipe import LoraSection

    adapted = add_lora(backbone, LoraSection(rank=4, alpha=4, dropout=0.0))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:  # zero at first: then the other half would have no gradient
                parameter.normal_(std=0.1)
    return adapted


# Name to what turns a backbone into the one that is trained.
ADAPTERS: dict[str, Callable[[Any], Any]] = {"full": lambda backbone: backbone, "lora": _lora}


def token_batch(data: Path, step: int = 0, processes: Processes | None = None, **plan: Any) -> TokenBatch:
    """A batch of the dataset, with token ids that follow from what a text is called."""
    from teva_data.dataset import Dataset
    from teva_data.feed import TokenBatch
    from teva_data.plan import BatchPlan
    from teva_torch.distributed import Processes

    processes = processes or Processes()
    settings = {"batch_size": 13, "negatives": 3, "seed": 1} | plan
    batch = BatchPlan.of(Dataset.open(data), "train", **settings).batch(step, processes.rank, processes.world)
    return TokenBatch(
        batch,
        [_tokens(query.query_text, 2, 7) for query in batch.queries],
        [_tokens(document.document_text, 2, 13) for document in batch.documents],
    )


def _tokens(text: str, least: int, most: int) -> list[int]:
    random = np.random.default_rng(zlib.crc32(text.encode()))
    return [int(one) for one in random.integers(1, VOCABULARY, random.integers(least, most))]


def make_loss(name: str) -> Any:
    """The loss that a recipe with this section would have."""
    from teva_data.recipe import LossSection
    from teva_torch.losses import build_loss

    return build_loss(LossSection(**LOSSES[name]), hidden=32, normalize=True)


def by_teva(case: Case, data: Path, processes: Processes | None = None, **plan: Any) -> Gradients:
    """The gradient as a training step has it."""
    from teva_torch.caching import BatchGradient, Passes
    from teva_torch.distributed import Processes

    processes = processes or Processes()
    tokens, cached = PASSES[case.passes]
    model = make_model(case.model, case.adapter)
    gradient = BatchGradient(
        model, make_loss(case.loss), Passes(chunk_tokens=tokens, cached=cached, check="all"), processes
    )
    gradient.add(token_batch(data, processes=processes, **plan))
    processes.add_gradients(gradient.module.parameters())
    return gradients_of(gradient.module)


def plainly(case: Case, data: Path) -> Gradients:
    """The same by autograd alone: each text by itself, one graph over all, no code of the step."""
    return _plainly(case, data)[0]


def plain_loss(case: Case, data: Path) -> float:
    """The loss of :func:`plainly`."""
    return _plainly(case, data)[1]


@functools.cache
def _plainly(case: Case, data: Path) -> tuple[Gradients, float]:
    import torch
    from teva_torch.losses import Targets

    model, item = make_model(case.model, case.adapter), token_batch(data)
    queries, documents = (
        torch.cat([model.of(role)(*model.of(role).pad([ids])) for ids in texts])
        for role, texts in (("query", item.query_ids), ("document", item.document_ids))
    )
    loss = make_loss(case.loss)
    value = loss(queries, documents, Targets.of(item.batch, "cpu"))
    value.backward()
    return gradients_of(torch.nn.ModuleDict({"retriever": model, "loss": loss})), float(value.detach())


def gradients_of(model: Any) -> Gradients:
    """Name to gradient, of the parameters that have one."""
    return {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}


def relative_difference(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> tuple[float, float]:
    """L2 of the difference over that of the expected: of the whole, and the largest of a single tensor.

    To a single tensor's norm a thousandth of the whole's is added: BERT's key biases have no gradient but rounding.
    """
    assert found.keys() == expected.keys(), sorted(found.keys() ^ expected.keys())
    pairs = [(found[name].double(), value.double()) for name, value in expected.items()]
    whole = sum(float(value.square().sum()) for _, value in pairs) ** 0.5
    off = sum(float((one - value).square().sum()) for one, value in pairs) ** 0.5
    each = max(float((one - value).norm() / (value.norm() + 1e-3 * whole)) for one, value in pairs)
    return off / whole, each


# Strategies under which processes hold parts of a model: name to the recipe's torch section.
STRATEGIES: dict[str, dict[str, str]] = {
    "fsdp2": {"strategy": "fsdp2"},
    **{name: {"strategy": "deepspeed", "deepspeed": name} for name in ("zero1", "zero2", "zero3", "zero3-offload")},
}


def sharded_cases() -> list[Case]:
    """What is compared under each of them: a loss with columns left out, which no process can compute by itself."""
    return [Case(*parts) for parts in itertools.product(MODELS, ADAPTERS, ("masked",), PASSES)]


def by_strategy(name: str, case: Case, data: Path, processes: Processes) -> tuple[Gradients, float]:
    """The gradient of a case by processes that hold parts of the model, and the loss."""
    import torch
    from teva_data.recipe import TrainSection
    from teva_torch.caching import BatchGradient, Passes
    from teva_torch.recipe import TorchSection
    from teva_torch.strategies import prepare

    tokens, cached = PASSES[case.passes]
    model, loss = make_model(case.model, case.adapter), make_loss(case.loss)
    options = TorchSection.model_validate({"device": "cpu", **STRATEGIES[name]})
    settings = TrainSection(output="-", steps=1, max_grad_norm=1e9)
    strategy = prepare(options.strategy, model, loss, settings, options, processes, torch.device("cpu"))
    step = BatchGradient(model, loss, Passes(tokens, cached, check="all"), processes, strategy)
    value = step.add(token_batch(data, processes=processes))
    return strategy.gradients(), value


def by_processes(count: int, data: Path, out: Path, strategy: str = "") -> dict[str, Gradients]:
    """The gradients of all cases, computed by so many processes: name of the case to gradients.

    Args:
        count: processes.
        data: as :func:`make_data` makes it.
        out: a safetensors file to write.
        strategy: one of ``STRATEGIES``; each process holds the whole model where not given. The gradients of a case
            then have the loss among them, as ``loss``.
    """
    return run_processes(count, "benchmarks.gradients", data, out, *([strategy] if strategy else []))


def run_processes(count: int, module: str, data: Path, out: Path, *words: str) -> dict[str, Gradients]:
    """What a module's processes write, told ``data``, ``out`` and ``words``: name of a case to gradients."""
    from safetensors.torch import load_file

    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count),
        "-m", module, str(data), str(out), *words,
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stdout}\n{done.stderr}")
    found: dict[str, Gradients] = {}
    for key, value in load_file(out).items():
        name, _, parameter = key.partition("/")
        found.setdefault(name, {})[parameter] = value
    return found


def _all(data: Path, processes: Processes) -> Iterator[tuple[str, Tensor]]:
    for case in cases():
        for name, value in by_teva(case, data, processes).items():
            yield f"{case.name}/{name}", value


def _all_by(strategy: str, data: Path, processes: Processes) -> Iterator[tuple[str, Tensor]]:
    import torch

    for case in sharded_cases():
        gradients, loss = by_strategy(strategy, case, data, processes)
        for name, value in {**gradients, "loss": torch.tensor(loss)}.items():
            yield f"{case.name}/{name}", value


def main() -> None:
    """As one of several processes: all cases, written by process 0."""
    from safetensors.torch import save_file

    from teva_torch.distributed import join

    data, out = map(Path, sys.argv[1:3])
    strategy = sys.argv[3] if len(sys.argv) > 3 else ""
    with join("cpu", 120) as processes:
        found = dict(_all(data, processes) if not strategy else _all_by(strategy, data, processes))
        if processes.main:
            save_file(found, out)


if __name__ == "__main__":
    main()
