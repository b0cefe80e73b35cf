"""A model's local directory: the directory itself, or a snapshot of the Hugging Face hub; what a hub refuses."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .errors import ArtifactError, MissingExtraError, TevaError

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


@contextlib.contextmanager
def hub_errors(name: str) -> Iterator[None]:
    """Turn what a hub's client raises while something is uploaded into an error that says what to do.

    Args:
        name: of the repository.

    Raises:
        TevaError: in place of the client's own errors.
    """
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    # The error of whichever HTTP library this version of the hub's client is built on: its own errors derive from it.
    transport_error = HfHubHTTPError.__bases__[0]
    try:
        yield
    except HFValidationError as error:
        raise TevaError(f"{name}: not the name of a repository: {_first_line(error)}") from error
    except HfHubHTTPError as error:
        raise TevaError(f"{name}: {_refusal(error)}") from error
    except (transport_error, ConnectionError, TimeoutError) as error:
        raise TevaError(
            f"{name}: the hub was not reached ({type(error).__name__}: {_first_line(error)}). Nothing half-written "
            "is in use; run the same command again, which goes on where it stopped"
        ) from error


def _refusal(error: Any) -> str:
    status = getattr(getattr(error, "response", None), "status_code", None)
    todo = {
        401: "Log in (`hf auth login`), or pass a token that may write (--token, or HF_TOKEN)",
        403: "The token may not write there: check the owner's name, and that the token has write access",
        404: "Check the owner's name and the revision",
        409: "The repository is being changed by another; try again",
    }.get(status or 0, "Try again, or look at the hub's status")
    return f"the hub refused ({status}): {_first_line(error)}. {todo}"


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
