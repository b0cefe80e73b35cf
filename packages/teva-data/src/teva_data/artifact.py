"""The model artifact: what a directory says about how its vectors are made, read and written.

teva writes the one layout that sentence-transformers, vLLM, text-embeddings-inference and MTEB all load with the same
vectors (``docs/design.md``), and reads every sentence-transformers directory whose vectors it can reproduce: another
module chain is refused, never approximated.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from . import towers
from .errors import ArtifactError, DataError
from .files import checksum, fingerprint, read_whole, write_json, write_sealed
from .hub import fetch
from .known_prompts import known_prompts
from .schema import SCHEMA

logger = logging.getLogger(__name__)

ROLES = ("query", "document")
TEVA_FILE = "teva.json"
# Of an artifact that teva wrote: the checksum of each of its files but the card and teva.json, which has a seal.
CHECKSUMS = "checksums.json"
_UNLISTED = (CHECKSUMS, TEVA_FILE, "README.md")
# The key of config.json that says what is made of a record of several pieces: it decides vectors, so it stands where
# the fingerprint sees it.
MERGING = "teva_merging"
# The names under which sentence-transformers has kept the limit of length over the years.
_TRANSFORMER_FILES = tuple(
    f"sentence_{kind}_config.json"
    for kind in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
_TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model")
# How the types of models begin that read from left to right.
_DECODERS = (
    "llama", "mistral", "ministral", "mixtral", "qwen", "gemma", "phi", "gpt", "opt", "olmo", "granite", "smollm",
    "falcon", "bloom", "mpt", "stablelm", "starcoder", "cohere", "glm", "deepseek", "exaone", "internlm", "mamba",
)  # fmt: skip
# sentence-transformers' names for what teva calls cls, mean and last, in the newer key and in the older booleans.
_ST_POOLING = {"cls": "cls", "mean": "mean", "lasttoken": "last"}
# Where a package's own pooling is named; the module's type is none that sentence-transformers would load.
_OWN_POOLING, _OWN_TYPE = "teva_pooling", "teva.Pooling"
_ST_FLAGS = {"pooling_mode_cls_token": "cls", "pooling_mode_mean_tokens": "mean", "pooling_mode_lasttoken": "last"}


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
        _expect_unchanged(path, lambda name: not name.endswith(".safetensors"))
        config = _read_json(path / "config.json")
        pooling, normalize, dim = _read_modules(path, config)
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
        max_length, lowercase = _read_limits(path, config)
        return cls(
            path=path,
            name=name,
            # The hub's cache names a snapshot's directory after its commit.
            revision=None if local else root.name,
            pooling=pooling,
            normalize=normalize,
            dim=dim or _hidden_size(path, config),
            max_length=max_length or _model_limit(path, config),
            prompts=_read_prompts(path, name),
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
        listed = _checksums(self.path)
        for name in found.keys() & listed.keys():
            if found[name] != listed[name]:
                raise _changed(self.path / name)
        return fingerprint(found)

    def expect_whole(self) -> None:
        """Compare all files with their checksums, where the artifact has some (``checksums.json``).

        :meth:`load` has compared all but the weights.

        Raises:
            ArtifactError: a file is not what was written; it is named.
        """
        _expect_unchanged(self.path, lambda name: True)

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
        return _model_limit(self.path, _read_json(self.path / "config.json"))

    @functools.cached_property
    def fixed_length(self) -> int | None:
        """Tokens that every text is filled up to, without a mask; None where texts have lengths of their own."""
        return towers.fixed_length(_read_json(self.path / "config.json"))

    @functools.cached_property
    def is_decoder(self) -> bool:
        """Whether the backbone reads from left to right, so that only the last token has seen the whole text.

        A decoder that was trained to read both ways (``is_causal: false``) does not.
        """
        config = _read_json(self.path / "config.json")
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
        return sorted(_read_json(self.path / "config.json").get("matryoshka_dimensions") or [])

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


def write_record(directory: Path, teva: dict[str, Any]) -> None:
    """Write ``teva.json``, with a seal."""
    write_sealed(directory / TEVA_FILE, teva)


def write_checksums(directory: Path) -> None:
    """Write ``checksums.json`` for all files of an artifact but its card and record; the last thing that is written."""
    files = sorted(path for path in directory.rglob("*") if path.is_file() and path.name not in _UNLISTED)
    write_sealed(
        directory / CHECKSUMS, {"files": {path.relative_to(directory).as_posix(): checksum(path) for path in files}}
    )


def _checksums(path: Path) -> dict[str, str]:
    """Name to checksum of an artifact's files; empty where it has no such list."""
    hint = "Fetch or export the model again; where its files are right as they are, remove this one"
    try:
        files = read_whole(path / CHECKSUMS, hint).get("files")
    except FileNotFoundError:
        return {}
    except DataError as error:
        raise ArtifactError(str(error)) from error
    return files if isinstance(files, dict) else {}


def _expect_unchanged(path: Path, chosen: Callable[[str], bool]) -> None:
    for name, expected in _checksums(path).items():
        file = path / name
        if chosen(name) and (not file.is_file() or checksum(file) != expected):
            raise _changed(file)


def _changed(file: Path) -> ArtifactError:
    return ArtifactError(
        f"{file}: not the file that was exported: damaged, missing or edited. Fetch or export the model again; where "
        f"you have changed it yourself, remove {CHECKSUMS} from the model's directory"
    )


def read_record(path: Path) -> dict[str, Any]:
    """``teva.json`` of a directory; empty where there is none.

    Raises:
        ArtifactError: it is damaged.
    """
    try:
        return read_whole(path / TEVA_FILE, "Fetch or export the model again, or remove the file")
    except FileNotFoundError:
        return {}
    except DataError as error:
        raise ArtifactError(str(error)) from error


def write_layout(
    directory: Path,
    *,
    pooling: str,
    normalize: bool,
    dim: int,
    max_length: int,
    prompts: dict[str, str],
    teva: dict[str, Any],
    card: str,
    lowercase: bool = False,
) -> None:
    """Write what stands beside ``config.json``, the weights and the tokenizer in a teva artifact.

    Type names and pooling booleans are the older ones, which every reader takes (text-embeddings-inference refuses
    sentence-transformers' newer defaults; ``max_seq_length`` must be there for it and for vLLM).

    Args:
        directory: where; exists already.
        pooling: ``cls``, ``mean``, ``last``, ``towers``, or the name of a package's own.
        normalize: whether a Normalize module ends the chain.
        dim: components of a vector.
        max_length: tokens, special ones included, of queries and documents alike.
        prompts: ``query`` and ``document``.
        teva: the record for ``teva.json``.
        card: the model card, Markdown with its YAML header.
        lowercase: whether readers lower-case the text first.
    """
    apart = pooling == towers.POOLING
    types = ["Transformer", *([] if apart else ["Pooling"]), *(["Normalize"] if normalize else [])]
    write_json(
        directory / "modules.json",
        [
            {
                "idx": number,
                "name": str(number),
                "path": "" if number == 0 else f"{number}_{kind}",
                "type": _OWN_TYPE if kind == "Pooling" and is_own(pooling) else f"sentence_transformers.models.{kind}",
            }
            for number, kind in enumerate(types)
        ],
    )
    if not apart:
        _write_pooling(directory, pooling, dim)
    if normalize:
        write_json(directory / f"{len(types) - 1}_Normalize" / "config.json", {})
    how = towers.layout(_read_json(directory / "config.json")) if apart else {}
    limits = {"max_seq_length": max_length, "do_lower_case": lowercase, **how}
    write_json(directory / "sentence_bert_config.json", limits)
    write_json(
        directory / "config_sentence_transformers.json",
        {
            "model_type": "SentenceTransformer",
            "prompts": {role: prompts.get(role, "") for role in ROLES},
            "default_prompt_name": None,
            "similarity_fn_name": "cosine" if normalize else "dot",
            "__version__": {k: v for k, v in teva.get("versions", {}).items() if k in {"torch", "transformers"}},
        },
    )
    write_record(directory, teva)
    (directory / "README.md").write_text(card, encoding="utf-8")


def is_own(pooling: str | None) -> bool:
    """Whether a pooling is one that a package brings: runtimes other than the trainers do not know it."""
    return pooling not in (None, towers.POOLING, *_ST_POOLING.values())


def refuse_own(artifact: Artifact, runtime: str) -> None:
    """For runtimes that pool by themselves.

    Raises:
        ArtifactError: the artifact's pooling is one that a package brings.
    """
    if is_own(artifact.pooling):
        raise ArtifactError(
            f"{artifact.path}: found the pooling {artifact.pooling!r}, which a package beside teva brings; {runtime} "
            f"knows {', '.join(_ST_POOLING.values())} and would give other vectors. Encode with the engine torch or jax"
        )


def _write_pooling(directory: Path, pooling: str, dim: int) -> None:
    modes = {
        "cls_token": pooling == "cls",
        "mean_tokens": pooling == "mean",
        "max_tokens": False,
        "mean_sqrt_len_tokens": False,
        "weightedmean_tokens": False,
        "lasttoken": pooling == "last",
    }
    write_json(
        directory / "1_Pooling" / "config.json",
        {
            "word_embedding_dimension": dim,
            **{f"pooling_mode_{name}": on for name, on in modes.items()},
            **({_OWN_POOLING: pooling} if is_own(pooling) else {}),
            "include_prompt": True,
        },
    )


def _read_modules(path: Path, config: dict[str, Any]) -> tuple[str | None, bool, int | None]:
    """Pooling, normalisation and dimension from ``modules.json``; (None, False, None) for a bare backbone."""
    modules = _read_json(path / "modules.json", missing=None)
    if modules is None:
        return (towers.POOLING if towers.is_one(config) else None), False, None
    if modules and modules[0].get("path"):
        raise ArtifactError(
            f"{path / 'modules.json'}: found the transformer in {modules[0]['path']!r}; expected it in the directory "
            "itself, as sentence-transformers has written it since 2.0. Save the model again with it"
        )
    kinds = [str(module.get("type", "")).rsplit(".", 1)[-1] for module in modules]
    if towers.is_one(config) and kinds in (["Transformer"], ["Transformer", "Normalize"]):
        return towers.POOLING, "Normalize" in kinds, None
    if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        raise ArtifactError(
            f"{path / 'modules.json'}: found the modules {', '.join(kinds)}; expected Transformer, Pooling and, "
            "where vectors are normalised, Normalize. teva does not encode with other modules, since leaving one out "
            "would give other vectors: use sentence-transformers for this model"
        )
    file = path / modules[1]["path"] / "config.json"
    config = _read_json(file)
    if isinstance(own := config.get(_OWN_POOLING), str):
        return own, "Normalize" in kinds, config.get("word_embedding_dimension")
    chosen = [name for flag, name in _ST_FLAGS.items() if config.get(flag)]
    mode = config.get("pooling_mode")
    if mode is not None:
        # Newer layouts may name several; only one alone is reproduced.
        chosen = [_ST_POOLING.get(str(mode), str(mode))]
    others = [key for key, on in config.items() if key.startswith("pooling_mode_") and on and key not in _ST_FLAGS]
    if len(chosen) != 1 or others or chosen[0] not in _ST_POOLING.values():
        raise ArtifactError(f"{file}: found pooling {[*chosen, *others]}; expected one of {[*_ST_POOLING]}")
    if config.get("include_prompt") is False:
        raise ArtifactError(
            f"{file}: field 'include_prompt': found false; expected true. teva pools over the prompt's tokens too, "
            "as vLLM and text-embeddings-inference do: use sentence-transformers for this model"
        )
    return chosen[0], "Normalize" in kinds, config.get("word_embedding_dimension") or config.get("embedding_dimension")


def _read_limits(path: Path, config: dict[str, Any]) -> tuple[int | None, bool]:
    """Limit of length and lower-casing; refuses what changes vectors and is not understood."""
    file = next((path / name for name in _TRANSFORMER_FILES if (path / name).is_file()), None)
    limits: dict[str, Any] = {} if file is None else _read_json(file)
    processor = limits.get("processor_kwargs") or limits.get("tokenizer_args") or {}
    found = {key: limits[key] for key in ("query_length", "document_length", "query_expansion", "processing_kwargs")
             if limits.get(key)}  # fmt: skip
    if towers.is_one(config) and found == {"processing_kwargs": towers.layout(config).get("processing_kwargs")}:
        found = {}  # as teva fills such a model's texts up too
    found |= {key: value for key, value in processor.items() if key != "model_max_length"}
    if "message" in (limits.get("modality_config") or {}):
        found["modality_config"] = "message"
    general = path / "config_sentence_transformers.json"
    if truncate := _read_json(general, missing={}).get("truncate_dim"):
        file, found["truncate_dim"] = general, truncate
    if found:
        raise ArtifactError(
            f"{file}: found {found}, which change the vectors in a way that teva does not reproduce. Use "
            "sentence-transformers for this model, or take them out"
        )
    return limits.get("max_seq_length") or processor.get("model_max_length"), bool(limits.get("do_lower_case"))


def _read_prompts(path: Path, name: str) -> dict[str, str]:
    """Prompts as stored; those of the model's card where it is known to need some and stores none."""
    stored = _read_json(path / "config_sentence_transformers.json", missing={}).get("prompts") or {}
    if unused := {key: text for key, text in stored.items() if text and key not in ROLES}:
        logger.info("%s: prompts that teva leaves unused: %s", path, unused)
    if not stored.keys() & set(ROLES) and (known := known_prompts(name)):
        return known
    return {role: stored.get(role) or "" for role in ROLES}


def _read_json(file: Path, **default: Any) -> Any:
    """A JSON file's value; ``missing`` where there is no such file, an :class:`ArtifactError` without it."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if "missing" in default:
            return default["missing"]
        raise ArtifactError(f"{file.parent}: no {file.name}; expected a model directory of transformers") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ArtifactError(f"{file}: not JSON ({error}). Fetch or export the model again") from None


def _hidden_size(path: Path, config: dict[str, Any]) -> int:
    if towers.is_one(config):
        return towers.dim(config)
    whole = config.get("thinker_config") or config  # of Qwen2.5-Omni it is the part that reads
    for holder in (whole, whole.get("text_config") or {}):
        for key in ("hidden_size", "d_model", "dim", "n_embd"):
            if isinstance(holder.get(key), int):
                return int(holder[key])
    raise ArtifactError(f"{path / 'config.json'}: no hidden_size; expected the backbone's width")


def _model_limit(path: Path, config: dict[str, Any]) -> int:
    """The limit that sentence-transformers would take: the tokenizer's, at most the number of positions."""
    limits = [
        _read_json(path / "tokenizer_config.json", missing={}).get("model_max_length"),
        config.get("max_position_embeddings"),
        config.get("text_config", {}).get("max_position_embeddings") if towers.is_one(config) else None,
        config.get("thinker_config", config).get("text_config", {}).get("max_position_embeddings")
        if str(config.get("model_type")).startswith("qwen2_5_omni")
        else None,
    ]
    # Tokenizers without a limit say so with 1e30.
    real = [int(limit) for limit in limits if isinstance(limit, int | float) and 0 < limit < 1e9]
    if not real:
        raise ArtifactError(
            f"{path}: no limit of length in tokenizer_config.json or config.json. Set max_seq_length in "
            "sentence_bert_config.json"
        )
    return min(real)
