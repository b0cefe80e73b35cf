"""The layout of caption collections (MSR-VTT, AudioCaps): a caption is a query, the clip that it tells of its document.

MSR-VTT is published as one JSON (``videos``, ``sentences``), as JSON lists (``video_id, video, caption: [...]``) and as
CSV (``key, vid_key, video_id, sentence``); AudioCaps as CSV (``audiocap_id, youtube_id, start_time, caption``). The
clips come apart from them, as files or in an uncompressed archive.
"""

from __future__ import annotations

import json
import logging
import tarfile
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from teva_data.conversion import Options, cells
from teva_data.conversion.seen import SeenIds
from teva_data.conversion.tables import SPLIT_NAMES, Tables
from teva_data.errors import DataError
from teva_data.records import Row
from teva_data.writing import DatasetWriter
from teva_data.writing.incoming import MediaBytes, MediaFile

logger = logging.getLogger(__name__)

CAPTION = ("caption", "captions", "sentence", "sentences")
CLIP_ID = ("video_id", "youtube_id", "audio_id", "clip_id", "file_name", "video", "audio")
CAPTION_ID = ("audiocap_id", "sen_id", "caption_id", "key")
START = ("start_time",)
VIDEO = (".mp4", ".webm", ".mkv", ".avi", ".mov")
AUDIO = (".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a")
MOST_JSON = 1 << 30


class Clips:
    """Clips by path or name without ending, below a directory or in the archives (tar) there, or in one archive.

    Args:
        place: the directory or the archive.

    Raises:
        DataError: nothing is there, or an archive cannot be read.
    """

    def __init__(self, place: Path) -> None:
        self.place = place
        self._found: dict[str, list[MediaFile]] = {}
        self._count = 0
        if not place.exists():
            raise DataError(
                "nothing here", file=place, field="assets", expected="a directory of clips, or a tar of them"
            )
        files = [place] if place.is_file() else sorted(path for path in place.rglob("*") if path.is_file())
        for path in files:
            if path.suffix == ".tar":
                self._index(path)
            elif path.suffix.lower() in VIDEO + AUDIO:
                self._add(path.relative_to(place) if path != place else Path(path.name), MediaFile(path))

    def __len__(self) -> int:
        return self._count

    def _add(self, name: Path, piece: MediaFile) -> None:
        self._count += 1
        for key in {name.with_suffix("").as_posix(), name.stem}:
            self._found.setdefault(key, []).append(piece)

    def find(self, names: list[str], row: Row, field: str) -> MediaFile | None:
        """The clip of the first of the names that there is one of; of a path, the last part alone will do.

        Raises:
            DataError: there are two of one name.
        """
        for name in (key for each in names for key in dict.fromkeys((_stem(each), Path(_stem(each)).name))):
            if len(there := self._found.get(name, [])) > 1:
                paths = [str(piece.path) for piece in there[:2]]
                raise row.error("two clips of one name", field, name, "one", f"They are in {' and '.join(paths)}")
            if there:
                return there[0]
        return None

    def _index(self, archive: Path) -> None:
        try:
            with tarfile.open(archive, "r:") as file:
                for member in file:
                    name = Path(member.name)
                    if member.isfile() and name.suffix.lower() in VIDEO + AUDIO:
                        self._add(name, MediaFile(archive, member.offset_data, member.size, name.name))
        except (tarfile.TarError, OSError) as error:
            raise DataError(f"cannot be read: {error}", file=archive, expected="an uncompressed archive") from error


def _stem(name: str) -> str:
    """A path without the ending of a clip; other dots may belong to an id."""
    path = Path(name)
    return path.with_suffix("").as_posix() if path.suffix.lower() in VIDEO + AUDIO else path.as_posix()


def recognise(tables: Tables) -> str | None:
    """Rows with a caption and the name of a clip."""
    with suppress(DataError):
        for _, rows in _sources(tables, ()):
            columns = set(next(rows).record)
            captions, clips = columns.intersection(CAPTION), columns.intersection(CLIP_ID)
            # An image with a caption is no clip, and a query with positives is another layout.
            if captions and clips and not columns.intersection(("query", "query_text", "positive_document_ids")):
                return f"captions in {min(captions)!r} and clips in {min(clips)!r}"
            return None
    return None


def convert(tables: Tables, writer: DatasetWriter, options: Options) -> None:
    """Write captions and their clips; several captions may tell of one clip, which is written once.

    Raises:
        DataError: a row has no caption or names no clip, a clip is missing (unless ``missing`` is ``"skip"``: then its
            captions are left out, and counted in the log), or two clips have one name.
    """
    counts: Counter[str] = Counter()
    absent: dict[str, None] = {}
    seen: dict[str, SeenIds] = {}
    places: list[Clips] = []  # looked at when the first row has no bytes of its own
    with ExitStack() as stack:
        documents = stack.enter_context(SeenIds(writer.work))
        for split, rows in _sources(tables, options.splits):
            if split not in seen:
                seen[split] = stack.enter_context(SeenIds(writer.work))
            for row in rows:
                docid, names = _name(row)
                if docid not in documents and docid not in absent:
                    if pieces := _pieces(row, names, places, tables, options):
                        documents.add(docid, row, "clip")
                        writer.document(docid, video=pieces.get("video"), audio=pieces.get("audio"))
                    else:
                        absent[docid] = None
                if docid not in absent:
                    _write_captions(row, split, docid, counts, seen[split], writer, options)
    if absent:
        logger.warning(
            "%s: left out with all their captions: %d clips that are not there, of %d; the first: %s",
            tables.name, len(absent), len(absent) + documents.count, ", ".join(list(absent)[:5]),
        )  # fmt: skip
    if not documents.count:
        raise DataError("no clip is there", file=_place(tables, options), field="assets", found=len(absent))


def _write_captions(
    row: Row, split: str, docid: str, counts: Counter[str], queries: SeenIds, writer: DatasetWriter, options: Options
) -> None:
    field = options.query_field or cells.field_of(row, CAPTION)
    captions = [] if field is None else cells.texts(row, field)
    if not captions:
        raise row.error("no caption", field or CAPTION[0], None, f"a text in one of {', '.join(CAPTION)}")
    given = cells.field_of(row, CAPTION_ID) if len(captions) == 1 else None
    for caption in captions:
        query_id = f"{docid}#{counts[docid]}" if given is None else cells.identifier(row, (given,))
        counts[docid] += 1
        queries.add(query_id, row, given or "caption")
        writer.query(split, query_id, caption, [docid])
        writer.judgement(split, query_id, docid, 1)


def _name(row: Row) -> tuple[str, list[str]]:
    """The clip's id, and the names under which its file is looked for."""
    field = cells.field_of(row, CLIP_ID)
    if field is None:
        raise row.error(
            "names no clip", CLIP_ID[0], expected=f"one of {', '.join(CLIP_ID)}",
            hint=f"The row has: {', '.join(map(repr, row.record))}",
        )  # fmt: skip
    value = row.record[field]
    if isinstance(value, MediaBytes):
        return _stem(value.name), []
    name = cells.as_identifier(row, field, value)
    names = [name]
    for other in ("video", "audio", "file_name"):  # a file's name beside an id
        if isinstance(given := row.record.get(other), str) and given:
            names.insert(0, given)
    if field == "youtube_id" and (start := cells.field_of(row, START)) is not None:
        name = f"{name}_{row.record[start]}"
        # As the downloaders of AudioCaps name them: by start, by id alone, by AudioCaps' own id, with AudioSet's "Y".
        names = [name, *names, f"Y{names[-1]}", *_texts(row, "audiocap_id")]
    if field in ("video", "audio", "file_name"):
        name = _stem(name)
    return name, names


def _texts(row: Row, field: str) -> list[str]:
    return [] if row.record.get(field) is None else [str(row.record[field])]


def _pieces(
    row: Row, names: list[str], places: list[Clips], tables: Tables, options: Options
) -> dict[str, MediaBytes | MediaFile]:
    """The clip by kind: picture, sound or both of the row itself, or a file; empty where one may be missing and is."""
    inline = {kind: value for kind in ("video", "audio") if isinstance(value := row.record.get(kind), MediaBytes)}
    if inline:
        return dict(inline)
    if not places:
        places.append(Clips(_place(tables, options)))
    piece = places[0].find(names, row, "clip")
    if piece is None and options.missing != "skip":
        raise _missing(row, names, places[0])
    return {} if piece is None else {_kind(piece): piece}


def _kind(piece: MediaFile) -> str:
    return "video" if Path(piece.name or piece.path.name).suffix.lower() in VIDEO else "audio"


def _place(tables: Tables, options: Options) -> Path:
    if options.assets is not None:
        return options.assets
    if tables.path is None:
        raise DataError(
            "the clips are not in the dataset", file=tables.name, field="assets",
            expected="a directory of clips, or a tar of them", hint="Fetch them and name their place (--assets)",
        )  # fmt: skip
    return tables.path if tables.path.is_dir() else tables.path.parent


def _missing(row: Row, names: list[str], clips: Clips) -> DataError:
    return row.error(
        "no such clip", "clip", names[0], f"a file of this name among the {len(clips):,} clips of {clips.place}",
        "Name the clips' directory or archive (--assets), or leave out captions without a clip (--missing skip)",
    )  # fmt: skip


def _sources(tables: Tables, wanted: tuple[str, ...]) -> Iterator[tuple[str, Iterator[Row]]]:
    """Rows by split; a split may come several times, from the sentences of several files."""
    lists: dict[str, Path] = {}
    for path in _json_files(tables.path):
        content = _json(path)
        if isinstance(content, dict) and not isinstance(content.get("sentences"), list) and path != tables.path:
            logger.info("%s: no captions; left out", path)  # what `datasets` puts beside tables, a config, ...
            continue
        if isinstance(content, list):
            other = lists.setdefault(split := _split_in(path.stem), path)
            if other != path and (not wanted or split in wanted):
                raise DataError(
                    f"two files for {split!r}", file=path, found=other.name, expected="one",
                    hint="Move one away: the same captions would come twice",
                )  # fmt: skip
        yield from ((split, rows) for split, rows in _split(content, path) if not wanted or split in wanted)
    for name in tables.names():
        for split in tables.splits(name):
            if not wanted or split in wanted:
                yield split, tables.rows(name, split)


def _json_files(path: Path | None) -> list[Path]:
    if path is None or not path.exists():
        return []
    if path.is_file():
        return [path] if path.suffix == ".json" else []
    return sorted(file for file in path.glob("*.json") if not file.name.startswith(".") and file.is_file())


def _json(path: Path) -> Any:
    if path.stat().st_size > MOST_JSON:
        raise DataError("too large for one JSON value", file=path, expected="JSONL, one object a line")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"malformed JSON: {error}", file=path) from error


def _split(content: Any, path: Path) -> Iterator[tuple[str, Iterator[Row]]]:
    """Rows of a JSON value by split; a row's line is its number in the list."""
    if isinstance(content, list):
        yield _split_in(path.stem), _numbered(content, path)
        return
    if not isinstance(content, dict) or not isinstance(content.get("sentences"), list):
        raise DataError("no captions", file=path, expected="a list of objects, or an object with 'sentences'")
    splits: dict[str, str] = {}
    for video in content.get("videos") or []:
        if isinstance(video, dict) and isinstance(video.get("split"), str):
            splits[str(video.get("video_id"))] = video["split"].replace("validate", "validation")
    by_split: dict[str, list[tuple[int, Any]]] = {}
    for number, sentence in enumerate(content["sentences"], start=1):
        video = str(sentence.get("video_id")) if isinstance(sentence, dict) else ""
        by_split.setdefault(splits.get(video) or _split_in(path.stem), []).append((number, sentence))
    for split, sentences in by_split.items():
        yield split, (_row(sentence, path, number) for number, sentence in sentences)


def _numbered(content: list[Any], path: Path) -> Iterator[Row]:
    if not content:
        raise DataError("no rows", file=path, expected="at least one object")
    return (_row(record, path, number) for number, record in enumerate(content, start=1))


def _row(record: Any, path: Path, number: int) -> Row:
    if not isinstance(record, dict):
        raise DataError("not an object", file=path, line=number, found=record, hint="The line is its place in the list")
    return Row(record, path, number)


def _split_in(stem: str) -> str:
    words = stem.lower().replace("-", "_").replace(".", "_").split("_")
    return next((word for word in words if word in SPLIT_NAMES), "train")
