"""Files that appear whole or not at all, and checksums of what they hold."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import gzip
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import xxhash

from .errors import DataError, TevaError

CHUNK = 1 << 20


@contextlib.contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Give errors of writing the file's name: a full disk does not say which file it had no room for.

    What safetensors says of the system is made the system's own error.
    """
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            raise OSError(error.errno, os.strerror(error.errno), str(path)) from error
        raise
    except Exception as error:
        number = re.search(r"\(os error (\d+)\)", str(error)) if type(error).__name__ == "SafetensorError" else None
        if number:
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error
        raise


@contextlib.contextmanager
def atomic_file(path: str | Path, mode: str = "wb") -> Iterator[IO[Any]]:
    """Open a temporary file beside ``path``; rename it to ``path`` when the block ends well, remove it otherwise.

    The contents are flushed to disk before the rename, so ``path`` never names a partial file, even after a power cut.
    """
    path = Path(path)
    if path.is_dir():  # the rename would say so of the temporary file, when all is done
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with naming(path), _fdopen(handle, mode) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o666 & ~_umask())  # mkstemp makes files that only their owner can read
        Path(name).replace(path)
        _sync_directory(path.parent)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            Path(name).unlink()
        raise


@contextlib.contextmanager
def atomic_directory(path: str | Path, *, replace: bool = True) -> Iterator[Path]:
    """Fill a temporary directory beside ``path``; it becomes ``path`` when the block ends well.

    An existing ``path`` is replaced (unless ``replace`` is False: then what another process has put there meanwhile
    stays, and it is an error): it is moved aside first and removed last. A kill leaves the old or the new
    directory, never a mixture; where it fell between the two renames, the old one lies aside until :func:`recover`
    puts it back, which the next call for the same path does too.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    recover(path)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp"))
    try:
        temporary.chmod(0o777 & ~_umask())
        with naming(path):
            yield temporary
            for file in temporary.rglob("*"):
                if file.is_file():
                    _sync_file(file)
        old = None
        if not replace and path.exists() and any(path.iterdir()):
            raise TevaError(f"{path}: another process has written it meanwhile; what it wrote is kept")
        if path.exists():
            old = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".old")) / "was"
            path.replace(old)
        temporary.replace(path)
        _sync_directory(path.parent)
        if old is not None:
            shutil.rmtree(old.parent, ignore_errors=True)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def recover(path: Path) -> None:
    """Put back what a killed :func:`atomic_directory` had moved aside, where ``path`` is missing because of it."""
    if not path.exists():
        for old in sorted(path.parent.glob(f".{glob.escape(path.name)}.*.old/was")):
            old.replace(path)
            old.parent.rmdir()
            return


def remove_leftovers(directory: Path, name: str) -> None:
    """Remove what killed writes to ``name`` (a pattern) left in a directory, after :func:`recover` of what is wanted.

    Only for who holds the directory's lock: it might be another's work otherwise.
    """
    for ending in ("tmp", "old"):
        for path in directory.glob(f".{name}.*.{ending}"):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def lock_directory(directory: Path, doing: str) -> IO[str]:
    """Lock a directory for this process; the system gives it free when the process ends, however it ends.

    Args:
        directory: exists already; the lock is the file ``.lock`` in it.
        doing: what another holder does, for the message.

    Returns:
        The open lock file; closing it gives the directory free. Where the file system has no locks, it locks nothing.

    Raises:
        TevaError: another process holds the lock.
    """
    file = (directory / ".lock").open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        owner = file.read().strip()
        file.close()
        raise TevaError(
            f"{directory}: process {owner or 'unknown'} is {doing} here. Wait for it, or use another directory"
        ) from None
    except OSError:
        return file  # some network file systems have no locks: one writer is then the user's own care
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    return file


def write_json(path: str | Path, value: object) -> None:
    """Write ``value`` as indented JSON, atomically."""
    with atomic_file(path, "w") as file:
        json.dump(value, file, indent=2, ensure_ascii=False)
        file.write("\n")


def write_sealed(path: str | Path, value: dict[str, Any]) -> None:
    """Write ``value`` as JSON with a checksum of itself (key ``seal``), atomically; :func:`read_sealed` reads it."""
    value = json.loads(json.dumps(value))  # as it will be read: a key that is a number becomes a text
    write_json(path, {**value, "seal": fingerprint(value)})


def read_sealed(path: str | Path) -> dict[str, Any] | None:
    """What :func:`write_sealed` wrote; None where it is missing, or is not what was written."""
    try:
        value = json.loads(Path(path).read_bytes())
        return value if value.pop("seal") == fingerprint(value) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def read_whole(path: str | Path, hint: str) -> dict[str, Any]:
    """A JSON object from a file; where it has a seal (:func:`write_sealed`), it must fit. The seal is taken out.

    An object without one passes: other writers, and earlier versions, write none. One whose key is a letter away from
    the seal's name does not: a flipped byte made it so.

    Args:
        path: the file.
        hint: what to do where it is damaged, for the message.

    Raises:
        DataError: no JSON object, or not what was written.
        OSError: it cannot be read.
    """
    content = Path(path).read_bytes()
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DataError(f"not JSON ({error})", file=path, hint=hint) from error
    if not isinstance(value, dict):
        raise DataError("not a JSON object", file=path, found=value, hint=hint)
    seal = value.pop("seal", None)
    near = any(len(key) == 4 and sum(map(str.__ne__, key, "seal")) == 1 for key in value)
    if (seal is None and near) or seal not in (None, fingerprint(value)):
        raise DataError("damaged: it does not say what was written", file=path, field="seal", hint=hint)
    return value


def checksum(path: str | Path) -> str:
    """XXH3-128 of a file's bytes, in hexadecimal: fast enough to run on every read, not a defence against forgery."""
    digest = xxhash.xxh3_128()
    with Path(path).open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def fingerprint(*parts: object) -> str:
    """A short stable name for a JSON-able value: the first 16 hexadecimal digits of XXH3-128 over its sorted JSON."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False, default=str)
    return xxhash.xxh3_128_hexdigest(text.encode())[:16]


def open_binary(path: str | Path) -> IO[bytes]:
    """Open a file for reading, decompressed by its ending (``.gz``, ``.zst``)."""
    path = Path(path)
    if path.suffix == ".gz":
        return gzip.open(path, "rb")  # type: ignore[return-value]
    if path.suffix == ".zst":
        import pyarrow as pa

        return pa.input_stream(str(path), compression="zstd")  # type: ignore[no-any-return]
    return path.open("rb")


def _fdopen(handle: int, mode: str) -> IO[Any]:
    return os.fdopen(handle, mode) if "b" in mode else os.fdopen(handle, mode, encoding="utf-8", newline="\n")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync_file(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _sync_directory(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
