"""What all trainers do to write an artifact: its files around the weights, its gate, and what it was made with."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import limits
from .artifact import Artifact
from .files import atomic_directory, write_json
from .layout import write_layout
from .rendering import Renderer
from .seals import write_checksums, write_record


def write_artifact(
    directory: Path,
    renderer: Renderer,
    *,
    pooling: str,
    normalize: bool,
    dim: int,
    teva: dict[str, Any],
    card: str,
    save: Callable[[Path], None],
    check: Callable[[Path], dict[str, Any]],
) -> Artifact:
    """Write an artifact, and keep it only if every runtime at hand gives the model's vectors for it.

    Args:
        directory: where; an artifact that is there already is replaced when the new one is whole.
        renderer: the model's tokenizer, prompts and limit.
        pooling: the name of the model's pooling.
        normalize: whether vectors have length 1.
        dim: numbers in a vector.
        teva: the record for ``teva.json``; the figures of parity are put into it.
        card: Markdown with its YAML header.
        save: writes configuration and weights into a directory.
        check: compares the finished directory with the model and gives figures; raises where they differ.

    Raises:
        ParityError: a runtime gives other vectors; the directory is left as it was.
    """
    with atomic_directory(directory) as temporary:
        save(temporary)
        save_tokenizer(renderer.tokenizer, temporary)
        if renderer.pictures is not None:
            renderer.pictures.save(temporary)
            if renderer.pictures.kinds != ("image",):
                file = temporary / "config.json"
                config = json.loads(file.read_text(encoding="utf-8"))
                write_json(file, {**config, limits.KEY: renderer.pictures.limits.record()})
        write_layout(
            temporary,
            pooling=pooling,
            normalize=normalize,
            dim=dim,
            max_length=renderer.max_length,
            prompts={"query": renderer.query_prompt, "document": renderer.document_prompt},
            teva=teva,
            card=card,
            lowercase=renderer.lowercase,
        )
        teva["parity"] = check(temporary)
        write_record(temporary, teva)
        write_checksums(temporary)
    return Artifact.load(directory)


def git_revision() -> str | None:
    """Revision of the repository that the run was started in, ``+`` behind it where files differ; None outside one."""
    if shutil.which("git") is None:
        return None

    def git(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["git", *words], capture_output=True, text=True, check=False)

    head = git("rev-parse", "HEAD")
    if head.returncode:
        return None
    return head.stdout.strip() + ("+" if git("status", "--porcelain", "-uno").stdout else "")


def save_tokenizer(tokenizer: Any, directory: Path) -> None:
    """Write a tokenizer as every runtime is to find it: without the limits of earlier calls, with a token to pad."""
    # Limits set by earlier calls would be stored in tokenizer.json and applied by readers of that file alone.
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    # As stored by earlier versions of transformers; a processor would cut at it, whatever limit it is given.
    tokenizer.init_kwargs.pop("max_length", None)
    if tokenizer.pad_token is None and tokenizer.eos_token is not None:
        # sentence-transformers pads batches and needs a token for it; it is masked, so any does.
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(directory)
