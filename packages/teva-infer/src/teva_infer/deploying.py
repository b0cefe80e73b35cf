"""The command that serves an artifact with vLLM or text-embeddings-inference, and what each would get wrong.

No server adds prompts to `/v1/embeddings`: they belong into the request, and are printed with it.
"""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from teva_data.artifact import Artifact
from teva_data.layout import ROLES, is_own
from teva_data.pair import ArtifactPair, load_artifact

# Backbones that text-embeddings-inference 1.9 has code for (its backends/ and candle models).
_TEI = {
    "bert", "xlm-roberta", "roberta", "camembert", "distilbert", "mpnet", "modernbert", "nomic_bert", "gte", "new",
    "jina_bert_v2", "mistral", "qwen2", "qwen3", "gemma3_text", "llama",
}  # fmt: skip
# Those of which it reads that they see both ways, by the key use_bidirectional_attention; of Qwen2, is_causal.
_TEI_BOTH_WAYS = {"qwen3", "gemma3_text", "mistral", "qwen2"}


@dataclass(frozen=True)
class Deployment:
    """One server.

    Attributes:
        role: of a pair, whose encoder it serves; else "".
        command: the words of the command line.
        requests: for each role, the JSON body of a request with that role's prompt.
        url: where the server listens.
        problems: why this runtime would not give the artifact's vectors.
    """

    role: str
    command: list[str]
    requests: dict[str, str]
    url: str
    problems: list[str]

    def text(self) -> str:
        """The command, an example of a request for each role, and the problems."""
        lines = [f"# {self.role} encoder"] if self.role else []
        lines.append(shlex.join(self.command))
        for role, body in self.requests.items():
            lines += [f"# a {role}", f"curl {self.url} -H 'Content-Type: application/json' -d {shlex.quote(body)}"]
        return "\n".join([*lines, *(f"# PROBLEM: {problem}" for problem in self.problems)])


def deploy(
    model: str | Path,
    *,
    runtime: Literal["vllm", "tei"] = "vllm",
    port: int = 8000,
    dtype: str = "float32",
    name: str | None = None,
) -> list[Deployment]:
    """The servers for a model: one, or for a pair of encoders two, the documents' one port further.

    Args:
        model: an artifact of teva's, a pair, or any sentence-transformers directory or hub id.
        runtime: "vllm" (`vllm serve`) or "tei" (`text-embeddings-router`).
        port: where it listens.
        dtype: what it computes in.
        name: under which clients ask for it; the directory's name where not given.
    """
    found = load_artifact(model)
    if isinstance(found, ArtifactPair):
        return [
            _deployment(found.of(role), role, runtime, port + number, dtype, f"{name or Path(str(model)).name}-{role}")
            for number, role in enumerate(ROLES)
        ]
    return [_deployment(found, "", runtime, port, dtype, name or Path(found.name).name)]


def _deployment(artifact: Artifact, role: str, runtime: str, port: int, dtype: str, name: str) -> Deployment:
    path = str(artifact.path)
    # A longer text is cut by the server at this length, as everywhere; a shorter one would be another model.
    if runtime == "vllm":
        command = ["vllm", "serve", path, "--runner", "pooling", "--dtype", dtype, "--served-model-name", name,
                   "--max-model-len", str(artifact.max_length), "--port", str(port)]  # fmt: skip
        more = {"truncate_prompt_tokens": -1}
    else:
        command = ["text-embeddings-router", "--model-id", path, "--dtype", dtype, "--served-model-name", name,
                   "--pooling", _TEI_POOLING.get(artifact.pooling or "", "mean"), "--auto-truncate",
                   "--port", str(port)]  # fmt: skip
        more = {}
    requests = {
        each: json.dumps({"model": name, "input": [f"{artifact.prompts[each]}A text."], **more}, ensure_ascii=False)
        for each in ([role] if role else ROLES)
    }
    return Deployment(role, command, requests, f"http://localhost:{port}/v1/embeddings", _problems(artifact, runtime))


_TEI_POOLING = {"cls": "cls", "mean": "mean", "last": "last-token"}


def _problems(artifact: Artifact, runtime: str) -> list[str]:
    """What is known of a runtime's reader of this layout (docs/design.md) and does not fit this artifact."""
    path, found = artifact.path, []
    config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    if artifact.pooling is None:
        found.append(
            f"{path}: no modules.json: the runtime would choose a pooling of its own. Export it with teva-torch"
        )
    if is_own(artifact.pooling):
        found.append(
            f"the pooling {artifact.pooling!r} is one that a package brings: the runtime would pool in another way"
        )
    if artifact.max_length > artifact.positions:
        found.append(f"max_seq_length {artifact.max_length} is more than the model's {artifact.positions} positions")
    if artifact.lowercase:
        found.append("do_lower_case: neither runtime lower-cases; it has to stand in tokenizer.json")
    if runtime == "tei":
        kind = config.get("model_type")
        if kind not in _TEI:
            found.append(f"text-embeddings-inference has no code for the architecture {kind!r}")
        if not (path / "tokenizer.json").is_file():
            found.append("text-embeddings-inference reads tokenizer.json alone")
        if config.get("is_causal") is False and kind not in _TEI_BOTH_WAYS:
            found.append(f"text-embeddings-inference would run {kind!r} from left to right; it was trained both ways")
        if not artifact.normalize:
            found.append("/v1/embeddings of text-embeddings-inference normalises; these vectors are not to be")
        if not (path / "sentence_bert_config.json").is_file():
            found.append("no sentence_bert_config.json: text-embeddings-inference would cut at the model's positions")
    return found
