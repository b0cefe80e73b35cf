"""sentence-transformers' files of a model directory: written in the one way that every runtime reads, and read.

What changes vectors and is not understood is refused.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from . import towers
from .errors import ArtifactError
from .files import write_json
from .known_prompts import known_prompts
from .seals import write_record

logger = logging.getLogger(__name__)

ROLES = ("query", "document")
# The names under which sentence-transformers has kept the limit of length over the years.
_TRANSFORMER_FILES = tuple(
    f"sentence_{kind}_config.json"
    for kind in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
# sentence-transformers' names for what teva calls cls, mean and last, in the newer key and in the older booleans.
ST_POOLING = {"cls": "cls", "mean": "mean", "lasttoken": "last"}
# Where a package's own pooling is named; the module's type is none that sentence-transformers would load.
_OWN_POOLING, _OWN_TYPE = "teva_pooling", "teva.Pooling"
_ST_FLAGS = {"pooling_mode_cls_token": "cls", "pooling_mode_mean_tokens": "mean", "pooling_mode_lasttoken": "last"}


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
    how = towers.layout(read_json(directory / "config.json")) if apart else {}
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


def is_own(pooling: str | None) -> bool:
    """Whether a pooling is one that a package brings: runtimes other than the trainers do not know it."""
    return pooling not in (None, towers.POOLING, *ST_POOLING.values())


def read_modules(path: Path, config: dict[str, Any]) -> tuple[str | None, bool, int | None]:
    """Pooling, normalisation and dimension from ``modules.json``; (None, False, None) for a bare backbone."""
    modules = read_json(path / "modules.json", missing=None)
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
    config = read_json(file)
    if isinstance(own := config.get(_OWN_POOLING), str):
        return own, "Normalize" in kinds, config.get("word_embedding_dimension")
    chosen = [name for flag, name in _ST_FLAGS.items() if config.get(flag)]
    mode = config.get("pooling_mode")
    if mode is not None:
        # Newer layouts may name several; only one alone is reproduced.
        chosen = [ST_POOLING.get(str(mode), str(mode))]
    others = [key for key, on in config.items() if key.startswith("pooling_mode_") and on and key not in _ST_FLAGS]
    if len(chosen) != 1 or others or chosen[0] not in ST_POOLING.values():
        raise ArtifactError(f"{file}: found pooling {[*chosen, *others]}; expected one of {[*ST_POOLING]}")
    if config.get("include_prompt") is False:
        raise ArtifactError(
            f"{file}: field 'include_prompt': found false; expected true. teva pools over the prompt's tokens too, "
            "as vLLM and text-embeddings-inference do: use sentence-transformers for this model"
        )
    return chosen[0], "Normalize" in kinds, config.get("word_embedding_dimension") or config.get("embedding_dimension")


def read_limits(path: Path, config: dict[str, Any]) -> tuple[int | None, bool]:
    """Limit of length and lower-casing; refuses what changes vectors and is not understood."""
    file = next((path / name for name in _TRANSFORMER_FILES if (path / name).is_file()), None)
    limits: dict[str, Any] = {} if file is None else read_json(file)
    processor = limits.get("processor_kwargs") or limits.get("tokenizer_args") or {}
    found = {key: limits[key] for key in ("query_length", "document_length", "query_expansion", "processing_kwargs")
             if limits.get(key)}  # fmt: skip
    if towers.is_one(config) and found == {"processing_kwargs": towers.layout(config).get("processing_kwargs")}:
        found = {}  # as teva fills such a model's texts up too
    found |= {key: value for key, value in processor.items() if key != "model_max_length"}
    if "message" in (limits.get("modality_config") or {}):
        found["modality_config"] = "message"
    general = path / "config_sentence_transformers.json"
    if truncate := read_json(general, missing={}).get("truncate_dim"):
        file, found["truncate_dim"] = general, truncate
    if found:
        raise ArtifactError(
            f"{file}: found {found}, which change the vectors in a way that teva does not reproduce. Use "
            "sentence-transformers for this model, or take them out"
        )
    return limits.get("max_seq_length") or processor.get("model_max_length"), bool(limits.get("do_lower_case"))


def read_prompts(path: Path, name: str) -> dict[str, str]:
    """Prompts as stored; those of the model's card where it is known to need some and stores none."""
    stored = read_json(path / "config_sentence_transformers.json", missing={}).get("prompts") or {}
    if unused := {key: text for key, text in stored.items() if text and key not in ROLES}:
        logger.info("%s: prompts that teva leaves unused: %s", path, unused)
    if not stored.keys() & set(ROLES) and (known := known_prompts(name)):
        return known
    return {role: stored.get(role) or "" for role in ROLES}


def hidden_size(path: Path, config: dict[str, Any]) -> int:
    """Components of a vector: the backbone's width.

    Raises:
        ArtifactError: its configuration does not say.
    """
    if towers.is_one(config):
        return towers.dim(config)
    whole = config.get("thinker_config") or config  # of Qwen2.5-Omni it is the part that reads
    for holder in (whole, whole.get("text_config") or {}):
        for key in ("hidden_size", "d_model", "dim", "n_embd"):
            if isinstance(holder.get(key), int):
                return int(holder[key])
    raise ArtifactError(f"{path / 'config.json'}: no hidden_size; expected the backbone's width")


def model_limit(path: Path, config: dict[str, Any]) -> int:
    """The limit that sentence-transformers would take: the tokenizer's, at most the number of positions."""
    limits = [
        read_json(path / "tokenizer_config.json", missing={}).get("model_max_length"),
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


def read_json(file: Path, **default: Any) -> Any:
    """A JSON file's value; ``missing`` where there is no such file, an :class:`ArtifactError` without it."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if "missing" in default:
            return default["missing"]
        made = file.parent / "artifact"
        hint = f". The model of a run lies in {made}" if made.is_dir() else ""
        raise ArtifactError(
            f"{file.parent}: no {file.name}; expected a model directory of transformers{hint}"
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ArtifactError(f"{file}: not JSON ({error}). Fetch or export the model again") from None
