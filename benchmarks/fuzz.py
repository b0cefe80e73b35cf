"""Mutated input files for teva-data, and what must hold of each: it loads right, or an error names the place.

Used by the claim ``fuzzed_files`` in full (``python -m benchmarks.fuzz COUNT SEED DIRECTORY``) and by the short tests
in part. What a file that loads must hold is said by a second reader, written here with :mod:`json` alone.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import logging
import random
import shutil
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

WORDS = ["red", "blue", "ünï", "東京", "", " ", "a\tb", "x" * 300, "\u2028", "🙂", "null", "\\", '"']
SECONDS = 20  # a file that takes longer hangs


@dataclass(frozen=True)
class Verdict:
    """How one file ended.

    Attributes:
        outcome: ``loaded`` or ``refused``; anything else is a failure, and says what happened.
        mutation: what had been done to the file.
        kind: what the file was.
        told: the error's first words.
    """

    outcome: str
    mutation: str
    kind: str
    told: str = ""

    @property
    def passed(self) -> bool:
        """Whether it ended as it must."""
        return self.outcome in ("loaded", "refused")


@dataclass(frozen=True)
class Undecided:
    """What the second reader finds in a file that a strict reader may refuse; ``found`` is None where it cannot say."""

    found: list[Any] | None


def fuzz(count: int, seed: int, work: Path) -> Iterator[Verdict]:
    """Make ``count`` mutated files, one after the other, and try each.

    Args:
        count: how many.
        seed: names all of them.
        work: a directory to write to.
    """
    for number in range(count):
        rng = random.Random(f"{seed} {number}")
        kind = rng.choice(list(KINDS))
        make, load, oracle = KINDS[kind]
        data = make(rng)
        names = [rng.choice(list(MUTATIONS)) for _ in range(rng.choice([0, 1, 1, 1, 2, 3]))]
        for name in names:
            data = MUTATIONS[name](rng, data)
        directory = work / str(number)
        directory.mkdir(parents=True)
        try:
            yield _try(kind, "+".join(names) or "none", data, directory, load, oracle)
        finally:
            shutil.rmtree(directory, ignore_errors=True)


def _try(kind: str, mutation: str, data: bytes, directory: Path, load: Any, oracle: Any) -> Verdict:
    from teva_data.errors import DataError, TevaError

    try:
        expected = oracle(data)
    except Exception as error:  # noqa: BLE001 - whatever the second reader says: the file cannot be read
        expected = error
    try:
        with _alarm():
            found = load(data, directory)
    except DataError as error:
        if error.file is None or not Path(error.file).name:
            return Verdict("an error without a file", mutation, kind, str(error))
        if mutation == "none":
            return Verdict("a good file is refused", mutation, kind, str(error))
        return Verdict("refused", mutation, kind, error.problem[:40])
    except TevaError as error:
        return Verdict(f"another error: {type(error).__name__}", mutation, kind, str(error))
    except TimeoutError:
        return Verdict("hangs", mutation, kind)
    except Exception as error:  # noqa: BLE001 - exactly what is looked for
        return Verdict(f"another error: {type(error).__name__}", mutation, kind, str(error)[:200])
    if isinstance(expected, Undecided):
        expected = expected.found
    if isinstance(expected, Exception):
        return Verdict("a bad file is loaded", mutation, kind, f"{type(expected).__name__}: {expected}"[:200])
    if expected is not None and found != expected:
        return Verdict("loaded wrong", mutation, kind, _difference(found, expected))
    return Verdict("loaded", mutation, kind)


def _difference(found: Any, expected: Any) -> str:
    for one, other in zip(found, expected, strict=False):
        if one != other:
            return f"found {one!r}, expected {other!r}"[:300]
    return f"found {len(found)}, expected {len(expected)}"


@contextlib.contextmanager
def _alarm() -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


# --- files ---


def _text(rng: random.Random) -> str:
    return " ".join(rng.choices(WORDS, k=rng.randint(1, 6))) + "."


def _corpus(rng: random.Random) -> bytes:
    rows = [
        {"docid": f"d{n}", "title": rng.choice(["", "t", None]), "document_text": _text(rng)}
        for n in range(rng.randint(1, 12))
    ]
    return _lines(rng, rows)


def _queries(rng: random.Random) -> bytes:
    rows = []
    for n in range(rng.randint(1, 12)):
        row: dict[str, Any] = {
            "query_id": f"q{n}",
            "query_text": _text(rng),
            "positive_document_ids": [f"d{k}" for k in range(rng.randint(0, 3))],
            "negative_document_ids": [f"e{k}" for k in range(rng.randint(0, 3))],
        }
        if rng.random() < 0.3:
            row["positive_scores"] = [rng.random() for _ in row["positive_document_ids"]]
        if rng.random() < 0.3:
            row["prompt"] = rng.choice(["", "query: ", None])
        rows.append(row)
    return _lines(rng, rows)


def _lines(rng: random.Random, rows: list[dict[str, Any]]) -> bytes:
    escape = rng.random() < 0.5
    return "".join(json.dumps(row, ensure_ascii=escape) + "\n" for row in rows).encode()


def _qrels(rng: random.Random) -> bytes:
    rows = [f"q{n // 3}\td{n}\t{rng.randint(0, 3)}" for n in range(rng.randint(1, 12))]
    return ("query_id\tdocid\tscore\n" + "\n".join(rows) + "\n").encode()


# --- mutations of bytes ---

Mutation = Callable[[random.Random, bytes], bytes]


def _truncate(rng: random.Random, data: bytes) -> bytes:
    return data[: rng.randint(0, len(data))]


def _flip(rng: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        if changed:
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _insert(*parts: bytes) -> Mutation:
    def insert(rng: random.Random, data: bytes) -> bytes:
        at = rng.randint(0, len(data))
        return data[:at] + rng.choice(parts) + data[at:]

    return insert


def _line(change: Callable[[random.Random, list[bytes]], list[bytes]]) -> Mutation:
    def mutate(rng: random.Random, data: bytes) -> bytes:
        lines = data.split(b"\n")
        return b"\n".join(change(rng, lines))

    return mutate


def _repeat_line(rng: random.Random, lines: list[bytes]) -> list[bytes]:
    return [*lines[:-1], rng.choice(lines), lines[-1]]


def _drop_end(rng: random.Random, lines: list[bytes]) -> list[bytes]:
    at = rng.randrange(len(lines))
    return [*lines[:at], b"".join(lines[at : at + 2]), *lines[at + 2 :]]


def _blank_line(rng: random.Random, lines: list[bytes]) -> list[bytes]:
    at = rng.randint(0, len(lines))
    return [*lines[:at], rng.choice([b"", b"  ", b"\t"]), *lines[at:]]


def _value(rng: random.Random, data: bytes) -> bytes:
    """A field of a row gets a value of another type, another name, or a second value."""
    lines = data.split(b"\n")
    at = rng.randrange(len(lines))
    with contextlib.suppress(ValueError, RecursionError):
        record = json.loads(lines[at])
        if isinstance(record, dict) and record:
            name = rng.choice(list(record))
            strange: list[Any] = [
                None, 5, -1.5, True, "", [], [None], {}, {"a": [None, {"b": None}]}, "\ud800", 10**30, [["x"]],
                [1, "a"], float("nan"), "\x00", {"bytes": "x"}, ["", "b"],
            ]  # fmt: skip
            choice = rng.randrange(4)
            if choice < 2:
                record[name] = rng.choice(strange)
            elif choice == 2:
                record[rng.choice(["text", "_id", "id", "query", "image", "document_text", "prompt", "scores"])] = (
                    record.pop(name)
                )
            else:
                del record[name]
            lines[at] = json.dumps(record).encode()
    return b"\n".join(lines)


def _huge_line(rng: random.Random, data: bytes) -> bytes:
    row = json.dumps({"docid": "huge", "query_id": "huge", "text": "y" * rng.randint(1 << 20, 3 << 20)})
    return data + row.encode() + rng.choice([b"\n", b""])


def _deep(rng: random.Random, data: bytes) -> bytes:
    depth = rng.choice([50, 5000, 200_000])
    return data + b'{"docid": "deep", "query_id": "deep", "text": "x", "more": ' + b"[" * depth + b"]" * depth + b"}\n"


MUTATIONS: dict[str, Mutation] = {
    "truncated": _truncate,
    "flipped": _flip,
    "bad_utf8": _insert(b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xf8\x88\x80\x80"),
    "control": _insert(b"\x00", b"\r", b"\x1a", b"\x0b", b"\n", b"\t", b"\\", b'"'),
    "bom": lambda rng, data: b"\xef\xbb\xbf" + data,
    "bom_inside": _insert(b"\xef\xbb\xbf"),
    "utf16": lambda rng, data: data.decode("utf-8", "replace").encode("utf-16"),
    "crlf": lambda rng, data: data.replace(b"\n", b"\r\n"),
    "repeated_line": _line(_repeat_line),
    "lines_joined": _line(_drop_end),
    "blank_line": _line(_blank_line),
    "value": _value,
    "huge_line": _huge_line,
    "deep": _deep,
    "twice": lambda rng, data: data + data,
    "field_twice": lambda rng, data: data.replace(b'{"', b'{"title": "a", "title": "b", "', 1),
    "no_end": lambda rng, data: data.rstrip(b"\n"),
    "nothing": lambda rng, data: b"",
}


# --- loading, and the second reader ---


def _load_corpus(data: bytes, directory: Path) -> list[Any]:
    from teva_data.store import CorpusStore

    (directory / "corpus.jsonl").write_bytes(data)
    store = CorpusStore.open(directory / "corpus.jsonl")
    found = [(each.docid, each.title, each.document_text) for each in store.documents(0, len(store))]
    assert [each.docid for each in store.lookup([docid for docid, _, _ in found])] == [docid for docid, _, _ in found]
    return found


def _load_queries(data: bytes, directory: Path) -> list[Any]:
    from teva_data.store import QueryStore

    (directory / "train.jsonl").write_bytes(data)
    return [
        (
            each.query_id, each.query_text, list(each.positive_document_ids), list(each.negative_document_ids),
            None if each.positive_scores is None else list(each.positive_scores), each.prompt,
        )
        for each in QueryStore.open(directory / "train.jsonl")
    ]  # fmt: skip


def _load_compressed(data: bytes, directory: Path) -> list[Any]:
    """The bytes are those of a gzip file."""
    from teva_data.reader import read_rows

    (directory / "corpus.jsonl.gz").write_bytes(data)
    return [dict(row.record) for row in read_rows(directory / "corpus.jsonl.gz")]


def _load_qrels(data: bytes, directory: Path) -> list[Any]:
    from teva_data.runs import read_qrels

    (directory / "test.tsv").write_bytes(data)
    return [(q, d, s) for q, judged in read_qrels(directory / "test.tsv").items() for d, s in judged.items()]


def _load_parquet(data: bytes, directory: Path) -> list[Any]:
    from teva_data.reader import read_parquet

    (directory / "corpus.parquet").write_bytes(data)
    return [dict(row.record) for row in read_parquet(directory / "corpus.parquet")]


def _records(data: bytes) -> list[dict[str, Any]]:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) != len(pairs):
            raise ValueError("a field twice")
        return dict(pairs)

    text = data.decode("utf-8-sig") if data.startswith(b"\xef\xbb\xbf") else data.decode()
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    while lines and not lines[-1].strip():
        lines.pop()
    records = [json.loads(line, object_pairs_hook=once) for line in lines]
    if not records or not all(isinstance(record, dict) for record in records):
        raise ValueError("not rows of fields")
    json.dumps(records, ensure_ascii=False).encode()  # no halves of surrogate pairs
    return records


def _first(record: dict[str, Any], *names: str) -> Any:
    values = [record[name] for name in names if record.get(name) is not None]
    if len({str(value) for value in values}) > 1:
        raise ValueError("two values for one field")
    return values[0] if values else None


def _identifier(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise TypeError("no id")
    return str(value)


def _oracle_text(value: Any) -> str:
    if isinstance(value, list):
        texts = [text for text in value if text is not None]
        if not all(isinstance(text, str) and text.strip() for text in texts):
            raise TypeError("no texts")
        return " ".join(texts)
    if not isinstance(value, str | None):
        raise TypeError("no text")
    return value or ""


def _refuse_media(record: dict[str, Any]) -> None:
    names = [p + kind for p in ("", "document_", "query_") for kind in ("image", "video", "audio")]
    if any(record.get(name) is not None for name in names):
        raise ValueError("no media lie beside the file")


def _decided(records: list[dict[str, Any]], found: list[Any]) -> list[Any] | Undecided:
    """Whether an unknown field is a misspelt one is the reader's own judgement."""
    return Undecided(found) if any(set(record) - _KNOWN for record in records) else found


_KNOWN = {
    "docid", "_id", "id", "title", "document_text", "text", "contents", "query_id", "query_text", "query", "prompt",
    "positive_document_ids", "negative_document_ids", "positive_scores", "negative_scores", "image",
}  # fmt: skip


def _oracle_corpus(data: bytes) -> list[Any] | Undecided:
    found = []
    records = _records(data)
    for record in records:
        _refuse_media(record)
        title = _first(record, "title")
        if not isinstance(title, str | None):
            raise TypeError("no title")
        text = _oracle_text(_first(record, "document_text", "text", "contents"))
        if not (text.strip() or (title or "").strip()):
            raise ValueError("empty")
        found.append((_identifier(_first(record, "docid", "_id", "id")), title or "", text))
    if len({docid for docid, _, _ in found}) != len(found):
        raise ValueError("an id twice")
    return _decided(records, found)


def _oracle_queries(data: bytes) -> list[Any] | Undecided:
    found = []
    records = _records(data)
    for record in records:
        _refuse_media(record)
        text = _oracle_text(_first(record, "query_text", "query", "text"))
        if not text.strip():
            raise ValueError("empty")
        lists = []
        for name in ("positive_document_ids", "negative_document_ids"):
            value = record.get(name)
            if not isinstance(value, list | None):
                raise TypeError("no list")
            lists.append([_identifier(each) for each in value or []])
        scores = record.get("positive_scores")
        if scores is not None:
            good = isinstance(scores, list) and all(type(score) in (int, float) for score in scores)
            if not good or len(scores) != len(lists[0]) or any(score != score for score in scores):
                raise TypeError("no scores")
        prompt = record.get("prompt")
        if not isinstance(prompt, str | None):
            raise TypeError("no prompt")
        found.append((_identifier(_first(record, "query_id", "_id", "id")), text, *lists, scores, prompt))
    if len({each[0] for each in found}) != len(found):
        raise ValueError("an id twice")
    return _decided(records, found)


def _oracle_qrels(data: bytes) -> list[Any] | Undecided:
    """What a spreadsheet would have written; of a file in another form it cannot say what is in it."""
    lines = [line.removesuffix("\r") for line in data.decode().removeprefix("\ufeff").split("\n")]
    while lines and not lines[-1].strip():
        lines.pop()
    header, *rows = lines
    if header.split("\t") != ["query_id", "docid", "score"]:
        return Undecided(None)  # other headers, TREC's four columns, or damage
    rows = [row for row in rows if row.strip()]
    cells = [row.split("\t") for row in rows]
    if not cells or any(len(row) != 3 or not all(row) for row in cells):
        raise ValueError("not three cells")
    found = [(query, docid, int(score)) for query, docid, score in cells]
    if len({(query, docid) for query, docid, _ in found}) != len(found):
        raise ValueError("a judgement twice")
    order = dict.fromkeys(query for query, _, _ in found)
    return [each for query in order for each in found if each[0] == query]


def _gzipped(rng: random.Random) -> bytes:
    return gzip.compress(_corpus(rng), mtime=0)


def _oracle_gzip(data: bytes) -> list[Any]:
    return _records(gzip.decompress(data))


def _parquet(rng: random.Random) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{"docid": f"d{n}", "title": rng.choice(["", None]), "text": _text(rng)} for n in range(rng.randint(1, 40))]
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), buffer, row_group_size=rng.choice([1, 7, 100]), write_page_checksum=True)
    return buffer.getvalue()


def _oracle_parquet(data: bytes) -> list[Any]:
    import pyarrow.parquet as pq

    table = pq.read_table(io.BytesIO(data), page_checksum_verification=True)
    rows = table.to_pylist()
    if not rows:
        raise ValueError("no rows")
    return rows


KINDS: dict[str, tuple[Callable[[random.Random], bytes], Any, Any]] = {
    "corpus.jsonl": (_corpus, _load_corpus, _oracle_corpus),
    "train.jsonl": (_queries, _load_queries, _oracle_queries),
    "corpus.jsonl.gz": (_gzipped, _load_compressed, _oracle_gzip),
    "corpus.parquet": (_parquet, _load_parquet, _oracle_parquet),
    "qrels.tsv": (_qrels, _load_qrels, _oracle_qrels),
}


def summary(count: int, seed: int, work: Path) -> dict[str, Any]:
    """How ``count`` files ended, what was done to them, and the largest memory of this process, in MB."""
    outcomes, tried, failures = Counter[str](), Counter[str](), []
    for verdict in fuzz(count, seed, work):
        outcomes[f"{verdict.kind} {verdict.outcome if verdict.passed else 'failed'}"] += 1
        tried.update(verdict.mutation.split("+"))
        if not verdict.passed:
            failures.append(f"{verdict.kind}, {verdict.mutation}: {verdict.outcome}: {verdict.told}")
    return {
        "outcomes": dict(sorted(outcomes.items())),
        "mutations": dict(sorted(tried.items())),
        "failures": failures,
        "peak_mb": _peak_mb(),
    }


def _peak_mb() -> float:
    """The largest memory of this program; what a parent held before it began is not in it, as it is in getrusage's."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("no line 'VmHWM' in /proc/self/status")


if __name__ == "__main__":
    logging.disable(logging.INFO)  # ten thousand stores built are ten thousand lines
    print(json.dumps(summary(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))))
