"""A model's local directory: the directory itself, or a snapshot of the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path

from .errors import ArtifactError, MissingExtraError

# What decides a model's vectors. Exports for other runtimes (onnx/, openvino/) can be larger than the model.
_PATTERNS = ["*.json", "*.safetensors", "*.txt", "*.model", "README.md", "*_Pooling/*", "*_Normalize/*", "*_Dense/*"]
_OTHERS = ["onnx/*", "openvino/*", "coreml/*", "gguf/*"]


def fetch(
    name_or_path: str | Path, *, revision: str | None = None, token: str | None = None, offline: bool = False
) -> Path:
    """The directory of a model.

    Args:
        name_or_path: a local directory, or a hub id ``owner/name``.
        revision: branch, tag or commit on the hub; ignored for a local directory.
        token: the hub's access token; the one that is logged in where not given.
        offline: use the local cache only (as ``HF_HUB_OFFLINE=1`` does).

    Raises:
        ArtifactError: no such directory or model, or the hub cannot be reached.
    """
    path = Path(name_or_path).expanduser()
    if path.is_dir():
        return path
    name = str(name_or_path)
    if path.exists() or name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise ArtifactError(f"{name}: no such directory. Give a model directory or a hub id (owner/name)")
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
    except ImportError as error:
        raise MissingExtraError("a model from the hub", "teva-data[inputs]") from error
    try:
        found = Path(
            snapshot_download(
                name, revision=revision, token=token, local_files_only=offline,
                allow_patterns=_PATTERNS, ignore_patterns=_OTHERS,
            )
        )  # fmt: skip
        if not any(found.glob("*.safetensors")):
            # An older upload: weights as a torch archive only, which torch reads without running code from it.
            snapshot_download(
                name, revision=revision, token=token, local_files_only=offline, allow_patterns=["pytorch_model*"]
            )
        return found
    except LocalEntryNotFoundError:
        raise ArtifactError(
            f"{name}: neither a local directory nor in the hub's local cache, and the hub was not asked (offline) or "
            "did not answer. Fetch it once with a connection, or give a directory"
        ) from None
    except (HfHubHTTPError, HFValidationError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ArtifactError(
            f"{name}: not a local directory, and the hub answered: {reason}. Check the name and revision, and the "
            "token for a private model (--token, or HF_TOKEN)"
        ) from None
