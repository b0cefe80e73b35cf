"""The model artifact: what a directory says about how its vectors are made, read and written.

teva writes the one layout that sentence-transformers, vLLM, text-embeddings-inference and MTEB all load with the same
vectors (``docs/design.md``), and reads every sentence-transformers directory whose vectors it can reproduce: another
module chain is refused, never approximated.
"""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any, Literal

from . import towers
from .errors import ArtifactError
from .files import checksum, fingerprint
from .hub import fetch
from .layout import (
    ROLES,
    ST_POOLING,
    hidden_size,
    is_own,
    model_limit,
    read_json,
    read_limits,
    read_modules,
    read_prompts,
)
from .schema import SCHEMA
from .seals import CHECKSUMS, TEVA_FILE, changed, checksums_of, expect_unchanged, read_record

# The key of config.json that says what is made of a record of several pieces: it decides vectors, so it stands where
# the fingerprint sees it.
MERGING = "teva_merging"
_TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model")
# How the types of models begin that read from left to right.
_DECODERS = (
    "llama", "mistral", "ministral", "mixtral", "qwen", "gemma", "phi", "gpt", "opt", "olmo", "granite", "smollm",
    "falcon", "bloom", "mpt", "stablelm", "starcoder", "cohere", "glm", "deepseek", "exaone", "internlm", "mamba",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Artifact:
    """A model directory and what it says about its vectors.

    Attributes:
        path: the local directory.
        name: how it was asked for: a directory or a hub id.
        revision: the hub's commit; None for a local directory.
        pooling: ``cls``, ``mean`` or ``last``, ``towers`` of a model with two (:mod:`teva_data.towers`), or the name of
            one that an installed package brings; None where the directory does not say (a bare backbone).
        normalize: whether vectors end with length 1.
        dim: components of a vector.
        max_length: tokens of the longest input, special tokens included; longer ones are cut.
        prompts: text put before every ``query`` and ``document``; both keys are always there.
        lowercase: whether text is lower-cased before it is tokenised.
        merging: what is made of a record of several pieces: ``sequence``, ``mean`` or ``first``.
    """

    path: Path
    name: str
    revision: str | None
    pooling: str | None
    normalize: bool
    dim: int
    max_length: int
    prompts: dict[str, str]
    lowercase: bool = False
    merging: Literal["sequence", "mean", "first"] = "sequence"

    @classmethod
    def load(
        cls,
        name_or_path: str | Path,
        *,
        revision: str | None = None,
        token: str | None = None,
        offline: bool = False,
        role: str | None = None,
    ) -> Artifact:
        """Describe a local directory, or a model of the hub (which is fetched unless it is in the cache).

        Args:
            name_or_path: a directory of teva's or of sentence-transformers', a bare backbone, or a hub id.
            revision: branch, tag or commit on the hub.
            token: the hub's access token; the one that is logged in where not given.
            offline: use the local cache only.
            role: ``query`` or ``document``: which encoder of a pair; a model that encodes both is itself.

        Raises:
            ArtifactError: no such model; a pair, and no role; a file is missing or broken; modules that teva cannot
                reproduce.
        """
        path = root = fetch(name_or_path, revision=revision, token=token, offline=offline)
        if encoders := encoders_of(root):
            path = _half(root, encoders, role)
        if (path / "adapter_config.json").is_file() and not (path / "config.json").is_file():
            raise ArtifactError(
                f"{path}: found a PEFT adapter alone; expected a model. `teva-torch merge {path} --output DIR` makes "
                "one"
            )
        expect_unchanged(path, lambda name: not name.endswith(".safetensors"))
        config = read_json(path / "config.json")
        pooling, normalize, dim = read_modules(path, config)
        if not any((path / name).is_file() for name in _TOKENIZER_FILES):
            raise ArtifactError(
                f"{path}: no tokenizer; expected one of {', '.join(_TOKENIZER_FILES)}. "
                "Copy the tokenizer's files of the model it was made from into the directory"
            )
        local = Path(name_or_path).is_dir()
        name = str(path if local and path != root else name_or_path)
        record = read_record(path)
        if record.get("schema", SCHEMA["artifact"]) != SCHEMA["artifact"]:
            raise ArtifactError(
                f"{path / TEVA_FILE}: field 'schema': found {record['schema']!r}; expected {SCHEMA['artifact']!r}. Use "
                "the version of teva that wrote it"
            )
        max_length, lowercase = read_limits(path, config)
        return cls(
            path=path,
            name=name,
            # The hub's cache names a snapshot's directory after its commit.
            revision=None if local else root.name,
            pooling=pooling,
            normalize=normalize,
            dim=dim or hidden_size(path, config),
            max_length=max_length or model_limit(path, config),
            prompts=read_prompts(path, name),
            lowercase=lowercase,
            merging=config.get(MERGING, "sequence"),
        )

    @functools.cached_property
    def fingerprint(self) -> str:
        """Name of what decides the vectors: checksums of weights, tokenizer and configuration (not the card)."""
        # Exports for other runtimes lie in other folders, and may be fetched later: they decide nothing here.
        files = [*self.path.glob("*"), *self.path.glob("[0-9]_*/*")]
        kinds = {".json", ".txt", ".model", ".safetensors"}
        if not any(file.suffix == ".safetensors" for file in files):
            kinds.add(".bin")
        deciding = {
            str(file.relative_to(self.path)): file
            for file in files
            if file.suffix in kinds and file.name not in (TEVA_FILE, CHECKSUMS, "probes.json") and file.is_file()
        }
        found = {name: checksum(deciding[name]) for name in sorted(deciding)}
        listed = checksums_of(self.path)
        for name in found.keys() & listed.keys():
            if found[name] != listed[name]:
                raise changed(self.path / name)
        return fingerprint(found)

    def expect_whole(self) -> None:
        """Compare all files with their checksums, where the artifact has some (``checksums.json``).

        :meth:`load` has compared all but the weights.

        Raises:
            ArtifactError: a file is not what was written; it is named.
        """
        expect_unchanged(self.path, lambda name: True)

    def of(self, role: str) -> Artifact:
        """What encodes a role: this model; a pair has one for each."""
        return self

    @property
    def front(self) -> Artifact:
        """Itself; of a pair, what both have in common."""
        return self

    def side(self, role: str) -> str:
        """Name of the model that a role's vectors can be searched with: the fingerprint, of a half that of its pair.

        A half counts as its pair only in its own role, and only while its files are those that the pair was made of.
        """
        pair = self.teva.get("pair") or {}
        if pair.get("role") != role or pair.get(role) != self.fingerprint:
            return self.fingerprint
        return fingerprint("pair", *(pair[each] for each in ROLES))

    @functools.cached_property
    def positions(self) -> int:
        """Tokens of the longest input that the backbone can take at all."""
        return model_limit(self.path, read_json(self.path / "config.json"))

    @functools.cached_property
    def fixed_length(self) -> int | None:
        """Tokens that every text is filled up to, without a mask; None where texts have lengths of their own."""
        return towers.fixed_length(read_json(self.path / "config.json"))

    @functools.cached_property
    def is_decoder(self) -> bool:
        """Whether the backbone reads from left to right, so that only the last token has seen the whole text.

        A decoder that was trained to read both ways (``is_causal: false``) does not.
        """
        config = read_json(self.path / "config.json")
        if config.get("is_causal") is False or config.get("use_bidirectional_attention") in (True, "all"):
            return False
        names = config.get("architectures") or []
        # A decoder saved without its head is called `Qwen3Model`, as an encoder would be: its type tells.
        return (
            any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in names)
            or bool(config.get("is_decoder"))
            or str(config.get("model_type", "")).startswith(_DECODERS)
        )

    @functools.cached_property
    def matryoshka(self) -> list[int]:
        """The dimensions that the model was trained to be cut at, ascending; empty where it does not say."""
        return sorted(read_json(self.path / "config.json").get("matryoshka_dimensions") or [])

    @functools.cached_property
    def teva(self) -> dict[str, Any]:
        """``teva.json``: recipe, data, versions and parity figures; empty for a model that teva did not train."""
        return read_record(self.path)


def encoders_of(path: Path) -> dict[str, str]:
    """Of a directory with a pair of artifacts, role to subdirectory; empty for a model."""
    found: dict[str, str] = read_record(path).get("encoders") or {}
    return found


def _half(root: Path, encoders: dict[str, str], role: str | None) -> Path:
    if role is None:
        places = " and ".join(f"{root / encoders[each]} ({each})" for each in ROLES if each in encoders)
        raise ArtifactError(
            f"{root}: found a pair of encoders; expected one model. Name one of them: {places}. A recipe trains both "
            "with model.tied: false"
        )
    if Path(encoders.get(role, "..")).name != encoders.get(role):
        raise ArtifactError(
            f"{root / TEVA_FILE}: field 'encoders': found {encoders}; expected a directory for {role!r}"
        )
    return root / encoders[role]


def refuse_own(artifact: Artifact, runtime: str) -> None:
    """For runtimes that pool by themselves.

    Raises:
        ArtifactError: the artifact's pooling is one that a package brings.
    """
    if is_own(artifact.pooling):
        raise ArtifactError(
            f"{artifact.path}: found the pooling {artifact.pooling!r}, which a package beside teva brings; {runtime} "
            f"knows {', '.join(ST_POOLING.values())} and would give other vectors. Encode with the engine torch or jax"
        )
