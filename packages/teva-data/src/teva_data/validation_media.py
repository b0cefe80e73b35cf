"""Whether the pictures, clips and recordings that a row names can be opened."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path

from .errors import DataError, MissingExtraError
from .pieces import Media, Stored
from .records import Row


def cannot_be_opened(row: Row, pieces: Stored, root: Path) -> Iterator[DataError]:
    """Open the media of a row and tell which ones cannot be.

    Args:
        row: for addresses.
        pieces: as the parser gave them: ``[kind, file, offset, length]`` of a medium.
        root: the dataset's directory.

    Raises:
        MissingExtraError: a decoder is not installed.
    """
    for kind, file, offset, length in (piece for piece in pieces if len(piece) == 4):
        found = file if offset == 0 else {"file": file, "offset": offset, "length": length}
        try:
            _OPENERS[kind](Media(kind, str(root / file), offset, length).read())
        except ImportError as error:
            raise MissingExtraError(f"opening {kind} files", f"teva-data[{kind}]") from error
        except (DataError, OSError, ValueError, RuntimeError, SyntaxError, EOFError, IndexError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            yield row.error(
                f"cannot be opened as {kind}: {reason}",
                kind,
                found=found,
                hint="Make the file again or remove the line",
            )


def _open_image(data: bytes) -> None:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
    except Image.DecompressionBombError as error:
        raise ValueError(str(error)) from error


def _open_audio(data: bytes) -> None:
    import soundfile  # type: ignore[import-not-found, import-untyped, unused-ignore]

    with soundfile.SoundFile(io.BytesIO(data)) as sound:
        if not len(sound.read(frames=1)):
            raise ValueError("it holds no sound")


def _open_video(data: bytes) -> None:
    from torchcodec.decoders import VideoDecoder  # type: ignore[import-not-found, import-untyped, unused-ignore]

    VideoDecoder(data)[0]


_OPENERS: dict[str, Callable[[bytes], None]] = {"image": _open_image, "audio": _open_audio, "video": _open_video}
