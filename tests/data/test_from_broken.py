"""Sources with bytes changed: a conversion succeeds or stops with the library's error, and leaves nothing half done."""

from __future__ import annotations

import json
import random
import shutil
from collections import Counter
from pathlib import Path

import pytest

from teva_data.conversion import convert
from teva_data.dataset import Dataset
from teva_data.errors import DataError

from . import test_from_captions, test_from_miracl, test_from_mteb, test_from_vidore

PIECES = (b"null", b"[", b"{", b'"', b"\xef\xbb\xbf", b"\r\n", b"\t", b",", b"1e999", b"-1", b"[]", b"\xff", b"\0")
TIMES = 30


def msmarco(source: Path) -> Path:
    source.mkdir()
    (source / "collection.tsv").write_text("0\tone\n1\ttwo é\n")
    (source / "queries.train.tsv").write_text("5\tq\n6\tr\n")
    (source / "qrels.train.tsv").write_text("5\t0\t0\t1\n6\t0\t1\t1\n")
    (source / "qidpidtriples.train.tsv").write_text("5\t0\t1\n")
    return source


def captions(source: Path) -> Path:
    test_from_captions.clips(source / "video", "video0.mp4", "video1.mp4")
    (source / "msrvtt_train_9k.json").write_text(json.dumps(test_from_captions.TRAIN))
    return source


SOURCES = {
    "mteb": test_from_mteb.text_repository,
    "vidore": test_from_vidore.three_tables,
    "miracl": test_from_miracl.language,
    "msmarco": msmarco,
    "captions": captions,
}


def changed(data: bytes, draw: random.Random) -> bytes:
    out = bytearray(data)
    for _ in range(draw.randrange(1, 5)):
        at = draw.randrange(len(out) + 1)
        kind = draw.randrange(4)
        if kind == 0:
            del out[at : at + draw.randrange(1, 20)]
        elif kind == 1:
            out[at:at] = draw.choice(PIECES)
        elif kind == 2:
            out[at:at] = out[: draw.randrange(60)]
        else:
            out = out[:at] if draw.random() < 0.3 else out[:at] + bytes([draw.randrange(256)]) + out[at + 1 :]
    return bytes(out)


@pytest.mark.parametrize("layout", SOURCES)
def test_changed_bytes(tmp_path, layout):
    whole = SOURCES[layout](tmp_path / "whole")
    draw, ends = random.Random(layout), Counter[str]()
    for _ in range(TIMES):
        source = Path(shutil.copytree(whole, tmp_path / "work" / "source"))
        files = sorted(path for path in source.rglob("*") if path.is_file() and path.suffix != ".mp4")
        file = draw.choice(files)
        file.write_bytes(changed(file.read_bytes(), draw))
        out = source.parent / "out"
        try:
            convert(source, out, layout=draw.choice(["auto", layout]))
            assert len(Dataset.open(out).corpus)
            ends["converted"] += 1
        except DataError:
            assert not out.exists()
            ends["refused"] += 1
        assert not list(source.parent.glob(".*"))
        shutil.rmtree(source.parent)
    assert ends["refused"] > TIMES / 3  # the changes are felt
