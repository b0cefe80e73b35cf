"""Each declared dataset is converted from a local replica of what it declares: its repositories, columns and types."""

from __future__ import annotations

import importlib
import re
import shutil
from pathlib import Path

import pytest

from teva_data.cli import main
from teva_data.conversion import LAYOUTS, READS, convert
from teva_data.conversion.declared import convert_declared
from teva_data.dataset import Dataset, DatasetCard
from teva_data.datasets import NAMES, Declaration, Source, declaration, declarations
from teva_data.errors import DataError

from .replicas import hub_repository, png


def test_every_module_is_declared_and_says_what_it_does_not_know():
    import pkgutil

    import teva_data.datasets as package

    modules = {module.name for module in pkgutil.iter_modules(package.__path__)} - {"declaration", "_columns"}
    assert modules == {name.replace("-", "_") for name in NAMES}
    for each in declarations():
        assert each.layout in LAYOUTS
        DatasetCard(license=each.license, languages=list(each.languages))
        assert each.citation
        assert each.notes
        if each.license in ("unknown", "other"):
            assert each.terms
        for source in each.sources:
            assert source.rows or source.about
            if source.revision is None:
                assert "not pinned" in each.describe()
        read = {name for source in each.sources for name in source.columns if name in each.fields}
        assert {"query_id"} <= read


def test_every_layout_stands_in_the_documents():
    text = (Path(__file__).parents[2] / "docs" / "formats.md").read_text()
    assert [name for name in LAYOUTS if f"| `{name}` |" not in text] == []


def feature(kind: str):
    from datasets import Audio, Image

    if kind in ("image", "audio"):
        return {"image": Image(), "audio": Audio()}[kind]
    if kind.startswith("list[{"):
        return [dict(pair.split(": ") for pair in kind[6:-2].split(", "))]
    return [kind[5:-1]] if kind.startswith("list[") else kind


def replica(directory, source: Source, splits: dict[str, list[dict]]):
    """A repository with the columns and types that are declared; its rows have no other columns."""
    for row in (row for rows in splits.values() for row in rows):
        assert row.keys() <= source.columns.keys()
    types = {name: feature(kind) for name, kind in source.columns.items()}
    return hub_repository(directory / source.folder, {"default": splits}, {"default": types})


def wave(seed: int) -> bytes:
    import io
    import wave as waves

    file = io.BytesIO()
    with waves.open(file, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(bytes((seed * at) % 256 for at in range(320)))
    return file.getvalue()


def medium(kind: str, seed: int):
    if kind == "image":
        return {"bytes": png(seed), "path": None}
    return {"bytes": wave(seed), "path": f"{seed}.wav"} if kind == "audio" else f"video{seed}.mp4"


def local_copy(directory, each: Declaration):
    """A local copy of a dataset: two queries in each split, three documents, of the declared modality."""
    directory.mkdir()
    passage = [{"docid": f"d{n}", "title": f"t{n}", "text": f"text é {n}"} for n in range(3)]
    if each.layout == "tevatron-v1":
        rows = [
            {"query_id": f"q{n}", "query": f"what {n}?", "positive_passages": [passage[n]],
             "negative_passages": [passage[2]]}
            for n in range(2)
        ]  # fmt: skip
        return replica(directory, each.queries, dict.fromkeys(each.splits, rows)).parent
    kind = each.modalities[-1]
    queries = [
        {"query_id": f"q{n}", "query_text": f"what {n}?", "positive_document_ids": [f"d{n}"],
         "negative_document_ids": ["d2"]}
        for n in range(2)
    ]  # fmt: skip
    replica(directory, each.queries, dict.fromkeys(each.splits, queries))
    documents = [{"docid": f"d{n}", **({kind: medium(kind, n)} if kind != "text" else passage[n])} for n in range(3)]
    replica(directory, each.corpus, {"train": documents})
    if kind == "video":
        (directory / each.corpus.folder / each.corpus.assets).mkdir()
        for n in range(3):
            (directory / each.corpus.folder / each.corpus.assets / f"video{n}.mp4").write_bytes(b"clip %d" % n)
    return directory


@pytest.mark.parametrize("name", NAMES)
def test_replica_of_its_schema(tmp_path, name):
    each = declaration(name)
    out = convert_declared(name, tmp_path / "out", local=local_copy(tmp_path / "copy", each))
    dataset = Dataset.open(out)
    assert dataset.splits == sorted(each.splits)
    assert dataset.card.license == each.license
    assert dataset.card.source.startswith(each.queries.hub)
    for split in dataset.splits:
        assert [
            (query.query_id, query.query_text, query.positive_document_ids, query.negative_document_ids)
            for query in dataset.queries(split)
        ] == [("q0", "what 0?", ("d0",), ("d2",)), ("q1", "what 1?", ("d1",), ("d2",))]
        dataset.check_references(split)
    documents = {document.docid: document for document in dataset.corpus.documents(0, 3)}
    assert sorted(documents) == ["d0", "d1", "d2"]
    for n in range(3):
        document = documents[f"d{n}"]
        if each.modalities == ("text",):
            assert (document.title, document.document_text) == (f"t{n}", f"text é {n}")
        else:
            (piece,) = document.pieces
            expected = {"image": png(n), "audio": wave(n), "video": b"clip %d" % n}[each.modalities[-1]]
            assert (piece.kind, piece.read()) == (each.modalities[-1], expected)


def test_a_missing_download_says_what_to_fetch(tmp_path):
    (tmp_path / "copy").mkdir()
    with pytest.raises(DataError) as caught:
        convert_declared("colpali-train", tmp_path / "out", local=tmp_path / "copy")
    for repository in ("colpali", "colpali-corpus"):
        command = f"hf download --repo-type dataset Tevatron/{repository} --local-dir {tmp_path}/copy/{repository}"
        assert command in str(caught.value)
    with pytest.raises(DataError, match=r"no such dataset is declared.*Did you mean 'msrvtt'"):
        convert_declared("msr-vtt", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_one_repository_may_be_named_itself(tmp_path):
    copy = local_copy(tmp_path / "copy", declaration("bge-full"))
    dataset = Dataset.open(convert_declared("bge-full", tmp_path / "out", local=copy / "bge-ir"))
    assert len(dataset.corpus) == 3


def test_columns_that_have_changed_are_told_at_once(tmp_path):
    copy = local_copy(tmp_path / "copy", declaration("pixmo-docs"))
    shutil.rmtree(copy / "pixmo-docs")
    hub_repository(
        copy / "pixmo-docs", {"default": {"train": [{"qid": "1", "question": "x"}]}},
        {"default": {"qid": "string", "question": "string"}},
    )  # fmt: skip
    with pytest.raises(DataError, match=r"(?s)parquet:1: field 'query_id': not the columns that are declared.*'qid'"):
        convert_declared("pixmo-docs", tmp_path / "out", local=copy)


def test_command_line(tmp_path, capsys):
    assert main(["datasets", "list"]) == 0
    printed = capsys.readouterr().out
    assert [line.split()[0] for line in printed.splitlines()] == list(NAMES)
    assert main(["datasets", "show", "wiki-ss"]) == 0
    printed = capsys.readouterr().out
    assert "Tevatron/wiki-ss-corpus-new" in printed
    assert "not pinned: the newest revision is read" in printed
    assert main(["datasets", "show", "wikiss"]) == 1
    assert "Did you mean 'wiki-ss'" in capsys.readouterr().err
    assert main(["datasets", "show"]) == 1
    capsys.readouterr()
    copy = local_copy(tmp_path / "copy", declaration("colpali-train"))
    assert main(["convert", "colpali-train", str(tmp_path / "out"), "--local", str(copy), "--query-field", "x"]) == 1
    assert "field 'query-field': a declared dataset settles this itself" in capsys.readouterr().err
    assert main(["convert", "colpali-train", str(tmp_path / "out"), "--local", str(copy)]) == 0
    assert len(Dataset.open(tmp_path / "out").corpus) == 3


# --- options ---


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_a_layout_reads_is_what_its_code_names(layout):
    module = importlib.import_module(f"teva_data.conversion.layouts.{LAYOUTS[layout]}")
    source = Path(module.__file__).read_text()
    named = set(re.findall(r"\boptions\.(\w+)", source)) - {"wants"}
    named |= {"splits"} if "options.wants" in source else set()
    named |= {"splits", "part"} if "parts(tables, options" in source else set()
    assert named == READS[layout]


def test_an_option_that_is_not_read_is_refused(tmp_path):
    copy = local_copy(tmp_path / "copy", declaration("bge-full"))
    with pytest.raises(DataError, match=r"field 'corpus': not read by the layout 'tevatron-v1'.*tevatron-v2, miracl"):
        convert(copy / "bge-ir", tmp_path / "out", corpus=copy / "bge-ir")
    with pytest.raises(DataError, match=r"field 'held-out': not read by"):
        convert(copy / "bge-ir", tmp_path / "out", held_out=0.5)
    assert not (tmp_path / "out").exists()
