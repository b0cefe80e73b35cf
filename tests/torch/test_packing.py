from __future__ import annotations

import functools
import inspect

import pytest
from tests.torch.backbones import ARCHITECTURES, DECODERS, make

import torch
from teva_data.artifact import Artifact
from teva_data.errors import MissingExtraError, RecipeError, TevaError
from teva_torch import packing
from teva_torch.backbones import attention_option
from teva_torch.model import Retriever
from teva_torch.packing import Packed, packed_batches
from teva_torch.pooling import cls_pooling, last_pooling, mean_pooling
from teva_torch.training import train

# Longer and shorter than the windows of the tiny models, and one token alone.
LENGTHS = [23, 1, 7, 6, 5, 14]
POOLINGS = {"cls": cls_pooling, "mean": mean_pooling, "last": last_pooling}


def _texts():
    generator = torch.Generator().manual_seed(4)
    return [torch.randint(3, 44, (length,), generator=generator).tolist() for length in LENGTHS]


def reference(query, key, value, cu_q, cu_k, max_q, max_k, *, scale, window_size, enable_gqa):
    """What varlen attention is, text by text, from the softmax's definition: float32 [N, heads, width]."""
    assert torch.equal(cu_q, cu_k)
    assert cu_q.dtype == torch.int32
    assert max_q == max_k >= int(cu_q.diff().max())
    assert enable_gqa is (query.shape[1] != key.shape[1])
    times = query.shape[1] // key.shape[1]
    left, right = (10**9 if side == -1 else side for side in window_size)
    parts = []
    for start, stop in zip(cu_q[:-1].tolist(), cu_q[1:].tolist(), strict=True):
        q, k, v = (states[start:stop].transpose(0, 1) for states in (query, key, value))
        k, v = k.repeat_interleave(times, 0), v.repeat_interleave(times, 0)
        far = torch.arange(stop - start)[:, None] - torch.arange(stop - start)[None]
        seen = (far <= left) & (-far <= right)
        weights = (q @ k.transpose(1, 2) * scale).masked_fill(~seen, float("-inf")).softmax(-1)
        parts.append((weights @ v).transpose(0, 1))
    return torch.cat(parts)


@pytest.fixture
def on_any_device(monkeypatch):
    """The packed path on the CPU: the reference in place of torch's kernel, and nothing else changed."""
    monkeypatch.setattr(packing, "_torch_kernel", lambda: reference)
    monkeypatch.setattr(
        packing, "why_not", lambda backbone, device, dtype: None if packing._can_pack(backbone) else "cannot"
    )


@pytest.mark.parametrize("side", ["left", "right"])
def test_packing_and_back(side):
    ids, mask = torch.zeros(3, 4, dtype=torch.int64), torch.zeros(3, 4, dtype=torch.int64)
    for row, text in enumerate(([5, 6, 7], [8], [9, 10, 11, 12])):
        place = slice(0, len(text)) if side == "right" else slice(4 - len(text), 4)
        ids[row, place], mask[row, place] = torch.tensor(text), 1
    packed = Packed.of(ids, mask, first_position=2)
    assert packed.ids.tolist() == [[5, 6, 7, 8, 9, 10, 11, 12]]
    assert packed.positions.tolist() == [[2, 3, 4, 2, 2, 3, 4, 5]]
    assert packed.ends.tolist() == [0, 3, 4, 8]
    hidden = packed.ids[0][:, None].float().expand(-1, 2)
    torch.testing.assert_close(packed.unpack(hidden), ids[..., None].float().expand(-1, -1, 2))


@pytest.mark.parametrize("name", [*POOLINGS, "another"])
def test_pooling_of_a_row_is_that_of_padded_rows(name):
    pooling = POOLINGS.get(name, lambda hidden, mask: (hidden * mask[..., None]).amax(1))
    mask = (torch.arange(23) < torch.tensor(LENGTHS)[:, None]).long()
    packed = Packed.of(mask, mask)
    hidden = torch.randn(sum(LENGTHS), 8, requires_grad=True)
    vectors, expected = packed.pool(pooling, hidden), pooling(packed.unpack(hidden), mask)
    torch.testing.assert_close(vectors, expected, rtol=1e-5, atol=1e-6)
    weight = torch.randn_like(vectors)
    gradients = [torch.autograd.grad((each * weight).sum(), hidden)[0] for each in (vectors, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-6)


def test_batches_of_so_many_tokens():
    batches = packed_batches(LENGTHS, 20)
    assert [batch.tolist() for batch in batches] == [[0], [5], [2, 3, 4, 1]]
    assert [batch.tolist() for batch in packed_batches([5, 5, 5], 10)] == [[0, 1], [2]]
    assert packed_batches([], 10) == []


CASES = [(name, None) for name in ARCHITECTURES] + [(name, True) for name in DECODERS]


@pytest.mark.parametrize(("name", "bidirectional"), CASES)
def test_vectors_and_gradients_are_those_of_padded_rows(tmp_path, on_any_device, name, bidirectional):
    changes = {"attn_logit_softcapping": None} if name == "Gemma2" else {}
    if name in ("Qwen2", "Qwen3"):
        changes = {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1}
    artifact = Artifact.load(make(tmp_path, name, **changes))
    texts, results = _texts(), []
    for packed in (False, True):
        model = Retriever.load(artifact, pooling="mean", normalize=True, bidirectional=bidirectional).eval()
        if packed:
            assert model.pack(torch.float32)
        vectors = model.encode(texts, chunk_tokens=30)
        (vectors * torch.arange(32.0)).sum().backward()
        results.append((vectors, {n: p.grad for n, p in model.named_parameters() if p.grad is not None}))
    (expected, gradients), (found, others) = results
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert gradients.keys() == others.keys()
    whole, other = (torch.cat([each[n].flatten() for n in gradients]) for each in (gradients, others))
    assert (whole - other).norm() < 1e-5 * whole.norm()


@pytest.mark.parametrize("lora", [False, True])
def test_a_run_and_its_artifact(recipe, tmp_path, on_any_device, lora):
    make(tmp_path / "qwen", "Qwen3")
    recipe["model"] |= {"name": str(tmp_path / "qwen"), "pooling": "last", "normalize": True}
    recipe["torch"] |= {"attention": "varlen", "gradient_checkpointing": True, "lora": {} if lora else None}
    recipe["train"] |= {"steps": 3, "log_every": 1}
    recipe["torch"]["gradient_cache"] = lora
    packed = train(recipe)
    figures = packed.artifact.teva["parity"]
    assert all(figure["max_difference"] < 1e-5 for figure in figures.values()), figures
    assert "varlen" not in (packed.artifact.path / "config.json").read_text()
    padded = train(recipe, {"torch.attention": "sdpa", "train.output": str(tmp_path / "padded")})
    assert packed.loss == pytest.approx(padded.loss, rel=1e-4)


def test_elsewhere_a_message_and_padded_rows(recipe, caplog):
    recipe["torch"]["attention"] = "varlen"
    with caplog.at_level("WARNING", "teva_torch"):
        train(recipe)
    assert "torch.attention: varlen: torch has varlen attention for newer GPUs alone, not for cpu" in caplog.text


def test_dropout_that_is_lost_is_told(tmp_path, on_any_device, caplog):
    model = Retriever.load(Artifact.load(make(tmp_path, "Bert")), pooling="cls")
    with caplog.at_level("WARNING", "teva_torch"):
        assert model.pack(torch.float32)
    assert "no dropout: the model's own of 0.1" in caplog.text


def test_a_text_without_tokens(tmp_path, on_any_device):
    model = Retriever.load(Artifact.load(make(tmp_path, "Qwen3")), pooling="last")
    assert model.pack(torch.float32)
    with pytest.raises(TevaError, match=r"no tokens.*model\.append_eos: true"):
        model.vectors([[3, 4], []])


def test_what_cannot_be_packed(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (9, 0))
    cuda = torch.device("cuda")
    gemma = Retriever.load(Artifact.load(make(tmp_path / "gemma", "Gemma2")), pooling="last").backbone
    assert "caps the scores" in packing.why_not(gemma, cuda, torch.bfloat16)
    llama = Retriever.load(Artifact.load(make(tmp_path / "llama", "Llama")), pooling="last").backbone
    assert "set train.precision bfloat16" in packing.why_not(llama, cuda, torch.float32)
    assert packing.why_not(llama, cuda, torch.bfloat16) is None
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (7, 5))
    assert "newer GPUs" in packing.why_not(llama, cuda, torch.bfloat16)


def of_torch_2_11(
    query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, return_aux=None, scale=None, window_size=None
):
    """The signature and the terms of that kernel: as many heads of keys as of queries."""
    assert query.shape[1] == key.shape[1] == value.shape[1]
    ends = (cu_seq_q, cu_seq_k, max_q, max_k)
    return reference(query, key, value, *ends, scale=scale, window_size=window_size, enable_gqa=False)


@pytest.mark.parametrize("older", [False, True])
def test_the_kernel_gets_what_it_takes(monkeypatch, older):
    # Without a GPU the kernel itself cannot run; that it would take what it is given can be told.
    from torch.nn.attention import varlen

    signature = inspect.signature(of_torch_2_11 if older else varlen.varlen_attn)

    kernel = of_torch_2_11 if older or "enable_gqa" not in signature.parameters else reference

    @functools.wraps(of_torch_2_11 if older else varlen.varlen_attn)
    def checked(*words, **options):
        signature.bind(*words, **options)
        return kernel(*words, **options)

    monkeypatch.setattr(varlen, "varlen_attn", checked)
    generator, ends = torch.Generator().manual_seed(0), torch.tensor([0, 3, 4, 9], dtype=torch.int32)
    query, key, value = (torch.randn(9, heads, 8, generator=generator) for heads in (4, 2, 2))
    words, options = (ends, ends, 5, 5), {"scale": 0.3, "window_size": (2, 0)}
    found = packing._torch_kernel()(query, key, value, *words, **options, enable_gqa=True)
    torch.testing.assert_close(found, reference(query, key, value, *words, **options, enable_gqa=True))


def test_flash_attention(recipe, monkeypatch):
    import importlib.util

    with pytest.raises(RecipeError, match="flash_attention_2 runs on GPUs alone, not on cpu"):
        train(recipe, {"torch.attention": "flash_attention_2"})
    original = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "flash_attn" else original(name, *rest)
    )
    with pytest.raises(MissingExtraError, match=r"teva-torch\[flash-attn\]"):
        attention_option("flash_attention_2", torch.device("cuda"))
    with pytest.raises(RecipeError, match=r"torch\.attention: .*'sdpa'"):
        train(recipe, {"torch.attention": "sdp"})
