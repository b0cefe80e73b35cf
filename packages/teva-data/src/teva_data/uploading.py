"""Models to a hub."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import tyro

from .artifact import Artifact
from .errors import TevaError
from .hub import hub_errors
from .pair import ArtifactPair


def push(
    artifact: Artifact | ArtifactPair,
    repository: str,
    *,
    private: bool = False,
    revision: str | None = None,
    token: str | None = None,
    dry_run: bool = False,
    library: str = "teva-data",
) -> dict[str, int]:
    """Upload an artifact to a hub as a model repository, which is made where it is missing.

    Args:
        artifact: a local one.
        repository: ``owner/name``.
        private: for a new repository: seen by its owner alone.
        revision: the branch to write, made where it is missing; the main one where not given.
        token: the hub's access token; the one that is logged in where not given.
        dry_run: say what would be uploaded, and ask no hub.
        library: who uploads, as the hub is told.

    Returns:
        Bytes of each file by its path in the repository.

    Raises:
        TevaError: the hub refused or was not reached.
    """
    if repository.count("/") != 1 or not all(repository.split("/")):
        raise TevaError(f"--push: found {repository!r}; expected owner/name")
    folder = artifact.path
    assert folder is not None
    files = {
        path.relative_to(folder).as_posix(): path.stat().st_size
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    }
    if dry_run:
        return files
    from huggingface_hub import HfApi

    api = HfApi(token=token, library_name=library)
    with hub_errors(repository):
        api.create_repo(repository, private=private, exist_ok=True)
        if revision is not None:
            api.create_branch(repository, branch=revision, exist_ok=True)
        api.upload_folder(
            repo_id=repository, folder_path=folder, revision=revision, allow_patterns=list(files),
            commit_message="A teva artifact",
        )  # fmt: skip
    return files


@dataclasses.dataclass(frozen=True)
class Upload:
    """The options of a trainer's ``export`` that publish what it made.

    Attributes:
        push: upload it there; the repository is made where it is missing.
        private: a new repository is seen by its owner alone.
        revision: the branch to write, made where it is missing.
        token: the hub's access token; the one that is logged in where not given.
        dry_run: with push: print what would be uploaded, and upload nothing.
    """

    push: Annotated[str | None, tyro.conf.arg(metavar="OWNER/NAME")] = None
    private: bool = False
    revision: str | None = None
    token: str | None = None
    dry_run: bool = False

    def send(self, artifact: Artifact | ArtifactPair, library: str) -> None:
        """Upload, and print what went; where nothing is to be uploaded, the artifact's path.

        Args:
            artifact: a local one.
            library: who uploads, as the hub is told.
        """
        if self.push is None:
            print(artifact.path)
            return
        files = push(
            artifact, self.push, private=self.private, revision=self.revision, token=self.token,
            dry_run=self.dry_run, library=library,
        )  # fmt: skip
        if self.dry_run:
            print("\n".join(f"{size:>15,}  {name}" for name, size in files.items()))
            card = artifact.path / "README.md" if artifact.path else None
            if card is not None and card.is_file():
                print(f"\n{card.read_text(encoding='utf-8')}")
        told = ", not uploaded" if self.dry_run else ""
        print(f"{self.push}: {len(files)} files, {sum(files.values()):,} bytes{told}")


NO_UPLOAD = Upload()
