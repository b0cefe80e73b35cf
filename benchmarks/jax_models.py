"""What is measured of teva-jax's models, each in a process: ``python -m benchmarks.jax_models WHAT DIRECTORY``.

Prints JSON as its last line. Run it with the environment that :func:`environment` gives: eight devices on one CPU.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

POSITIONS = 64
VOCABULARY = 199
_COMMON = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4,
    "intermediate_size": 64, "max_position_embeddings": POSITIONS, "pad_token_id": 1, "bos_token_id": 3,
    "eos_token_id": 2,
}  # fmt: skip
_DECODER = {**_COMMON, "num_key_value_heads": 2, "head_dim": 8}
_SLIDING = {"sliding_window": 6, "query_pre_attn_scalar": 11}
_LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}  # fmt: skip
_YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 16}


@dataclasses.dataclass(frozen=True)
class Case:
    """A family, or a variant of one that sets a trap.

    Args:
        architecture: its name in transformers.
        changes: to the configuration.
        bidirectional: as of ``teva_jax.models.read_config``.
    """

    architecture: str
    changes: dict[str, Any] = dataclasses.field(default_factory=dict)
    bidirectional: bool | None = None

    @property
    def decoder(self) -> bool:
        """Whether positions are relative, so that texts may be padded on the left too."""
        return self.architecture not in ("Bert", "Roberta", "XLMRoberta")


_ROBERTA = {**_COMMON, "max_position_embeddings": POSITIONS + 2, "type_vocab_size": 1}
CASES: dict[str, Case] = {
    "bert": Case("Bert", {**_COMMON, "pad_token_id": 0}),
    "roberta": Case("Roberta", _ROBERTA),
    "xlm-roberta": Case("XLMRoberta", _ROBERTA),
    "llama, grouped heads": Case("Llama", _DECODER),
    "llama, rope of 3.1, tied": Case("Llama", {**_DECODER, "rope_parameters": _LLAMA3, "tie_word_embeddings": True}),
    "llama, biases": Case("Llama", {**_DECODER, "attention_bias": True, "mlp_bias": True}),
    "llama, both ways": Case("Llama", _DECODER, True),
    "mistral, window 6": Case("Mistral", {**_DECODER, "sliding_window": 6}),
    "mistral, window 6 both ways": Case("Mistral", {**_DECODER, "sliding_window": 6}, True),
    "mistral, no window": Case("Mistral", {**_DECODER, "sliding_window": None}),
    "qwen2": Case("Qwen2", {key: value for key, value in _DECODER.items() if key != "head_dim"}),
    "qwen2, last layer slides": Case(
        "Qwen2", {**_DECODER, "use_sliding_window": True, "sliding_window": 6, "max_window_layers": 2}
    ),
    "qwen2, yarn": Case("Qwen2", {**_DECODER, "rope_parameters": _YARN}),
    "qwen3": Case("Qwen3", {**_DECODER, "head_dim": 16}),
    "gemma2": Case("Gemma2", {**_DECODER, **_SLIDING}),
    "gemma2, both ways": Case("Gemma2", {**_DECODER, **_SLIDING}, True),
    "gemma3": Case("Gemma3Text", {**_DECODER, **_SLIDING, "num_hidden_layers": 6}),
    "gemma3, both ways": Case("Gemma3Text", {**_DECODER, **_SLIDING, "num_hidden_layers": 6}, True),
}


def environment() -> dict[str, str]:
    """Of a process with eight devices on one CPU."""
    return {
        **os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=8", "NPROC": "16",
        "HF_HUB_OFFLINE": "1",
    }  # fmt: skip


def measure(what: str, directory: Path, *words: str) -> dict[str, Any]:
    """Run one of the functions below in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.jax_models", what, str(directory), *words], env=environment(),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"benchmarks.jax_models {what}: {done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def make(directory: Path, case: Case) -> Path:
    """A model of random weights: norms and biases too, which a new model has at 1 and 0."""
    import transformers

    import torch

    torch.manual_seed(0)
    config = getattr(transformers, f"{case.architecture}Config")(**case.changes)
    model = getattr(transformers, f"{case.architecture}Model")(config)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if value.ndim == 1:
                centre = 0.0 if name.endswith("bias") or case.architecture.startswith("Gemma") else 1.0
                value.normal_(centre, 0.2)
            else:
                value.normal_(0, 0.15)
    model.save_pretrained(directory)
    return directory


def texts() -> list[list[int]]:
    """Token ids: of one token, of two, of some, of all positions; and one with the padding's own id in it."""
    draw = np.random.default_rng(0)
    rows = [draw.integers(4, VOCABULARY, length).tolist() for length in (1, 2, 11, POSITIONS, 30)]
    rows[4][7] = 1
    return rows


MESHES = {"one device": (1, 1, 1), "data 2, fsdp 2, tensor 2": (2, 2, 2)}


def compare(
    path: Path, case: Case, rows: list[list[int]], meshes: Mapping[str, tuple[int, int, int]] = MESHES
) -> dict[str, float]:
    """Largest difference of real tokens' hidden states from transformers', whose rows are alone, or padded.

    Of padded rows, a text that holds the padding's id is left out: transformers' mask does not tell the two apart for
    RoBERTa's positions.
    """
    import jax
    from teva_jax import make_mesh, params
    from teva_jax.mesh import sharding
    from teva_jax.models import build, read_config

    found: dict[str, float] = {}
    ids, lengths = np.full((8, max(map(len, rows))), 5, np.int32), np.ones(8, np.int32)
    for row, tokens in enumerate(rows):
        ids[row, : len(tokens)], lengths[row] = tokens, len(tokens)
    alone, padded = _transformers(path, case, rows)
    for label, (data, fsdp, tensor) in meshes.items():
        mesh = make_mesh(data=data, fsdp=fsdp, tensor=tensor, devices=jax.devices()[: data * fsdp * tensor])
        model = build(read_config(path, bidirectional=case.bidirectional), mesh)
        given = jax.device_put((ids, lengths), (sharding(("batch", None), mesh), sharding(("batch",), mesh)))
        hidden = np.asarray(jax.jit(model.hidden)(params.load(path, model.table, mesh), *given))
        for side, expected in {"alone": alone, **padded}.items():
            worst = max(
                float(np.abs(hidden[row, : len(tokens)] - expected[row]).max())
                for row, tokens in enumerate(rows)
                if side == "alone" or 1 not in tokens
            )
            found[f"{label}, {side}"] = worst
    found["size of the largest state"] = max(float(np.abs(each).max()) for each in alone)
    return found


def _transformers(path: Path, case: Case, rows: list[list[int]]) -> tuple[list[Any], dict[str, list[Any]]]:
    from transformers import AutoConfig, AutoModel

    import torch

    config, options = AutoConfig.from_pretrained(path), {}
    if case.bidirectional and config.model_type == "gemma3_text":
        config = type(config).from_dict({**config.to_dict(), "use_bidirectional_attention": True})
    elif case.bidirectional:
        options["is_causal"] = False
    model = AutoModel.from_pretrained(path, config=config, attn_implementation="eager").eval()
    if case.bidirectional and options:
        model.config.is_causal = False
    longest = max(map(len, rows))
    with torch.no_grad():
        alone = [model(input_ids=torch.tensor([tokens])).last_hidden_state[0].numpy() for tokens in rows]
        padded = {}
        for side in ("padded right", "padded left") if case.decoder else ("padded right",):
            gaps = [[1 if case.decoder else config.pad_token_id] * (longest - len(tokens)) for tokens in rows]
            left = side == "padded left"
            ids = [gap + tokens if left else tokens + gap for tokens, gap in zip(rows, gaps, strict=True)]
            mask = [
                [0] * len(gap) + [1] * len(tokens) if left else [1] * len(tokens) + [0] * len(gap)
                for tokens, gap in zip(rows, gaps, strict=True)
            ]
            states = model(input_ids=torch.tensor(ids), attention_mask=torch.tensor(mask)).last_hidden_state.numpy()
            padded[side] = [
                states[row, -len(tokens) :] if left else states[row, : len(tokens)] for row, tokens in enumerate(rows)
            ]
    return alone, padded


def parity(directory: Path) -> dict[str, Any]:
    """Every case, and the real MiniLM on English, German, Chinese and code."""
    found = {}
    for number, (name, case) in enumerate(CASES.items()):
        found[name] = compare(make(directory / str(number), case), case, texts())
    found["all-MiniLM-L6-v2"] = compare(_minilm(), Case("Bert"), _real_texts())
    return found


def _minilm() -> Path:
    from benchmarks.claims.real_run import minilm

    return minilm()


def _real_texts() -> list[list[int]]:
    from transformers import AutoTokenizer

    words = [
        "x", "how do I reset a forgotten password", "Das Passwort lässt sich auf der Anmeldeseite zurücksetzen.",
        "地震は、地下の岩盤がずれ動くことで起こる。", "def attend(q, k, v): return softmax(q @ k.T) @ v  " * 40,
    ]  # fmt: skip
    rows: list[list[int]] = AutoTokenizer.from_pretrained(_minilm())(words, truncation=True, max_length=512)[
        "input_ids"
    ]
    return rows


def depth(directory: Path) -> dict[str, Any]:
    """Seconds that compiling a forward and backward pass takes, and the size of its program, by number of layers."""
    import jax.numpy as jnp
    from flax import nnx
    from transformers import Qwen3Config

    import jax
    from teva_jax.models import build

    del directory
    found: dict[str, Any] = {}

    ids, lengths = jnp.zeros((4, 32), jnp.int32), jnp.full((4,), 32)
    for layers in (2, 8, 32, 64):
        config = Qwen3Config(**{**_DECODER, "num_hidden_layers": layers}).to_dict()
        model = build(config)
        params = {name: jnp.zeros(spec.shape) for name, spec in model.table.items()}

        def loss(params: Any, model: Any = model) -> Any:
            return model.hidden(params, ids, lengths, remat=True).sum()

        found[f"scanned, {layers}"] = _compiled(jax.grad(loss), params)
    # What it would be with one module for each layer: the same modules, called one after another.
    for layers in (2, 8, 32):
        config = Qwen3Config(**{**_DECODER, "num_hidden_layers": layers}).to_dict()
        model = build(config)
        inside = [name for name in model.table if "*" in name]
        params = {
            name if "*" not in name else f"{layer}:{name}": jnp.zeros(spec.shape if "*" not in name else spec.shape[1:])
            for name, spec in model.table.items() for layer in (range(layers) if "*" in name else [0])
        }  # fmt: skip

        def listed(params: Any, model: Any = model, inside: Any = inside, layers: int = layers) -> Any:
            from teva_jax.models.base import Scene, _state

            scene = Scene(lengths, jnp.dtype("float32"), None)
            root: Any = nnx.merge(model._root, _state({k: v for k, v in params.items() if "*" not in k}))
            x = root.begin(ids, scene, None)
            for layer in range(layers):
                weights = {name.removeprefix(model.prefix): params[f"{layer}:{name}"] for name in inside}
                one: Any = nnx.merge(model._layer, _state(weights))
                x = jax.checkpoint(lambda x, one=one: one(x, scene, None, True))(x)
            return root.end(x).sum()

        found[f"listed, {layers}"] = _compiled(jax.grad(listed), params)
    return found


def _compiled(function: Any, params: Any) -> dict[str, float]:
    import jax

    begin = time.process_time()
    lowered = jax.jit(function).lower(params)
    text = lowered.as_text()
    middle = time.process_time()
    lowered.compile()
    return {
        "seconds": time.process_time() - begin, "seconds to trace": middle - begin, "program, kB": len(text) / 1e3,
    }  # fmt: skip


def shards(directory: Path) -> dict[str, Any]:
    """A model of 100 M parameters read into eight shards: what is read at once, and in all; and whether it is right."""
    from safetensors.numpy import load_file

    import jax
    from teva_jax import make_mesh, params
    from teva_jax.models import build, read_config

    mesh = make_mesh(data=1, fsdp=4, tensor=2)
    case = Case("Llama", {
        **_COMMON, "hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 20, "num_attention_heads": 8,
        "num_key_value_heads": 8, "vocab_size": 32000,
    })  # fmt: skip
    path = make(directory / "model", case)
    model = build(read_config(path), mesh)
    reads: list[int] = []
    plain = params.Checkpoint.slice

    def watched(self: Any, name: str) -> Any:
        view = plain(self, name)

        class Watched:
            def __getitem__(self, index: Any) -> Any:
                part = view[index]
                reads.append(part.nbytes)
                return part

            def get_shape(self) -> Any:
                return view.get_shape()

        return Watched()

    params.Checkpoint.slice = watched  # type: ignore[method-assign]
    begin = time.perf_counter()
    loaded = params.load(path, model.table, mesh)
    jax.block_until_ready(loaded)
    seconds = time.perf_counter() - begin
    stored = load_file(path / "model.safetensors")
    whole = sum(array.nbytes for array in stored.values())
    equal = all(
        np.array_equal(np.asarray(loaded[name])[row] if "*" in name else loaded[name], stored[each])
        for name, spec in model.table.items() for row, each in enumerate(params.members(name, spec))
    )  # fmt: skip
    held = [
        sum(part.data.nbytes for array in loaded.values() for part in array.addressable_shards if part.device == device)
        for device in mesh.devices.flat
    ]
    return {
        "model, MiB": whole / 2**20, "largest read, MiB": max(reads) / 2**20,
        "largest tensor, MiB": max(array.nbytes for array in stored.values()) / 2**20,
        "read in all, of the model": sum(reads) / whole, "a device holds at most, of the model": max(held) / whole,
        "bit-equal": equal, "seconds": seconds,
    }  # fmt: skip


def artifacts(directory: Path) -> dict[str, Any]:
    """Artifacts of MiniLM with other weights and of decoders with LoRA, and what other runtimes make of them.

    The decoders have a tokenizer of words. Their adapters are drawn, as if trained for long.
    """
    import jax.numpy as jnp

    from teva_data.artifact import Artifact
    from teva_data.parity import compare as compare_vectors
    from teva_data.parity import rendered, stock_texts
    from teva_data.rendering import Renderer
    from teva_jax import JaxEngine, LoraSettings, Retriever, lora, make_mesh
    from teva_jax.export import write_artifact
    from teva_torch import TorchEngine

    draw, found = np.random.default_rng(0), {}
    mesh = make_mesh(data=2, fsdp=2, tensor=2)
    decoders = {"llama, lora": "llama, grouped heads", "gemma3 both ways, lora": "gemma3, both ways"}
    for name in ("MiniLM", *decoders):
        if name == "MiniLM":
            base, settings, case = Artifact.load(_minilm()), None, Case("Bert")
        else:
            case, settings = CASES[decoders[name]], LoraSettings(rank=8, alpha=16)
            base = Artifact.load(_with_tokenizer(make(directory / f"base {name}", case)))
        retriever, params = Retriever.load(
            base, mesh, pooling="mean" if case.bidirectional or settings is None else "last", normalize=True,
            bidirectional=case.bidirectional, lora=settings,
        )  # fmt: skip
        adapter = None
        if settings is None:
            params = {key: value * (1 + 0.02 * draw.standard_normal()) for key, value in params.items()}
        else:
            table = lora.table(retriever.model.table, settings)
            adapter = {key: jnp.asarray(draw.normal(0, 0.2, spec.shape), "float32") for key, spec in table.items()}
        renderer = Renderer.from_artifact(base, max_length=POSITIONS, append_eos=retriever.pooling_name == "last")
        texts = stock_texts(renderer)
        artifact = write_artifact(
            retriever, params, adapter, base, renderer, directory / name, teva={"schema": "1"}, card="", texts=texts,
            threshold=-1.0,
        )  # fmt: skip
        ids = rendered(texts, renderer)
        trained = JaxEngine(retriever, params, adapter).encode(ids)
        figures = {each: one["min_cosine"] for each, one in artifact.teva["parity"].items()}
        figures["teva-torch"] = compare_vectors(trained, TorchEngine.load(artifact).encode(ids))["min_cosine"]
        plain = JaxEngine(*Retriever.load(base, mesh, pooling=retriever.pooling_name, normalize=True)).encode(ids)
        figures["(the base)"] = compare_vectors(trained, plain)["min_cosine"]
        if adapter is not None:
            figures["peft, adapter beside the base"] = _by_peft(
                base.path, artifact.path / "adapter", case, ids, trained
            )
        found[name] = figures
    return found


def _with_tokenizer(directory: Path) -> Path:
    """A tokenizer of words, many of which its stock texts have."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = ["<unk>", "<pad>", "<eos>", "<bos>", *(f"w{number}" for number in range(VOCABULARY - 40))]
    words += ["the", "do", "how", "reset", "capital", "of", "and", "is", "light", "it", "on", *"aihxtbcdefgj.,?+-;:"]
    words = list(dict.fromkeys(words))[:VOCABULARY]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 3)])
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", pad_token="<pad>", eos_token="<eos>", bos_token="<bos>",
        model_max_length=POSITIONS,
    ).save_pretrained(directory)  # fmt: skip
    return directory


def _by_peft(base: Path, adapter: Path, case: Case, ids: list[list[int]], trained: Any) -> float:
    """Smallest cosine of vectors by peft; refuses an adapter that peft has loaded as zeros."""
    from peft import PeftModel
    from transformers import AutoConfig, AutoModel

    import torch
    from teva_data.parity import compare as compare_vectors

    config = AutoConfig.from_pretrained(base)
    if case.bidirectional:
        config = type(config).from_dict({**config.to_dict(), "use_bidirectional_attention": True})
    model = PeftModel.from_pretrained(AutoModel.from_pretrained(base, config=config), str(adapter)).eval()
    if not all(value.abs().max() > 0 for name, value in model.named_parameters() if "lora_" in name):
        raise RuntimeError("peft has loaded a factor that is all zero")
    with torch.no_grad():
        states = [model(input_ids=torch.tensor([tokens])).last_hidden_state[0] for tokens in ids]
    pooled = [each.mean(0) if case.bidirectional else each[-1] for each in states]
    return float(compare_vectors(trained, torch.stack(pooled).numpy())["min_cosine"])


if __name__ == "__main__":
    functions = {"parity": parity, "depth": depth, "shards": shards, "artifacts": artifacts}
    print(json.dumps(functions[sys.argv[1]](Path(sys.argv[2]))))
