"""LoRA on a tiny Llama, the same weights and batch: our loss and gradient, and those of sentence-transformers."""

from __future__ import annotations

import pytest
from tests.conftest import WORDS, write_jsonl
from tests.torch.backbones import make

import torch
from teva_data.artifact import Artifact
from teva_data.feed import Feed
from teva_data.layout import write_layout
from teva_data.plan import BatchPlan
from teva_data.prompting import training_renderer
from teva_torch.caching import BatchGradient, Passes
from teva_torch.losses import build_loss
from teva_torch.model import Retriever
from teva_torch.recipe import read_recipe

_TEMPERATURE = 0.05
_QUERIES = 6


@pytest.fixture
def setting(tmp_path):
    """A recipe over a batch whose documents are all distinct, as the peer's loss takes them to be."""
    model = make(tmp_path / "llama", "Llama", ending="<bos> $A <eos>")
    write_layout(model, pooling="last", normalize=True, dim=32, max_length=32, prompts={}, teva={}, card="")
    texts = [" ".join(WORDS[(7 * n + k * k) % len(WORDS)] for k in range(2 + n % 9)) for n in range(2 * _QUERIES)]
    data = tmp_path / "data"
    data.mkdir()
    write_jsonl(data / "corpus.jsonl", [{"docid": f"d{n}", "document_text": text} for n, text in enumerate(texts)])
    rows = [
        {
            "query_id": f"q{n}", "query_text": " ".join(WORDS[n : n + 1 + n % 3]), "positive_document_ids": [f"d{n}"],
            "negative_document_ids": [f"d{_QUERIES + n}"],
        }
        for n in range(_QUERIES)
    ]  # fmt: skip
    write_jsonl(data / "train.jsonl", rows)
    return read_recipe({
        "model": {"name": str(model), "pooling": "last", "normalize": True, "append_eos": False,
                  "query_max_length": 32, "document_max_length": 32},
        "prompts": {"query": "", "document": ""},
        "data": {"path": str(data), "negatives": 1},
        "loss": {"temperature": _TEMPERATURE},
        "train": {"output": str(tmp_path / "run"), "steps": 1, "batch_size": _QUERIES},
        "torch": {"device": "cpu", "lora": {"rank": 4, "alpha": 8}},
    })  # fmt: skip


def _peer(path, adapters):
    """The peer's model with an adapter of the same weights: the model, and its trainable parameters by our names."""
    from peft import LoraConfig
    from sentence_transformers import SentenceTransformer

    from teva_torch.lora import default_targets

    peer = SentenceTransformer(path, device="cpu")
    targets = default_targets(peer[0].model)
    peer.add_adapter(LoraConfig(r=4, lora_alpha=8, target_modules=targets))
    mine = {}
    for name, parameter in peer.named_parameters():
        if parameter.requires_grad:
            short = name[name.index("layers.") :]
            mine[short] = parameter
            with torch.no_grad():
                parameter.copy_(adapters[short])
    return peer.train(), mine


@pytest.mark.parametrize("cached", [False, True])
def test_loss_and_gradient(setting, cached):
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    base = Artifact.load(setting.model.name)
    model = Retriever.for_training(base, setting, torch.device("cpu")).train()
    ours = {name[name.index("layers.") :]: p for name, p in model.named_parameters() if p.requires_grad}
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in ours.values():
            # The second factor begins at 0, where half of the gradient is 0 too.
            parameter.normal_(generator=generator, std=0.1)
    item = Feed(BatchPlan.from_recipe(setting), training_renderer(setting, base), setting).batch(0)
    loss = build_loss(setting.loss, hidden=32, normalize=True)
    found = BatchGradient(model, loss, Passes(40, cached)).add(item)

    peer, theirs = _peer(setting.model.name, ours)
    assert theirs.keys() == ours.keys()
    batch = item.batch
    columns = [[batch.documents[row].document_text for row in batch.groups[:, place]] for place in (0, 1)]
    features = [peer.preprocess(texts) for texts in ([query.query_text for query in batch.queries], *columns)]
    expected = MultipleNegativesRankingLoss(peer, scale=1 / _TEMPERATURE)(features, torch.empty(0))
    expected.backward()
    assert float(found) == pytest.approx(float(expected.detach()), rel=1e-6)
    one, other = (torch.cat([each[name].grad.flatten() for name in ours]) for each in (ours, theirs))
    assert other.norm() > 0
    assert (one - other).norm() <= 1e-5 * other.norm()
