"""What SECURITY.md promises, of the sources and of real files that mean harm."""

from __future__ import annotations

import ast
import gzip
import io
import json
import tarfile
from pathlib import Path

import pytest

from teva_data import Dataset
from teva_data.conversion.archives import Archives
from teva_data.errors import DataError
from teva_data.modalities import image
from teva_data.pieces import Media
from teva_data.runs import read_run

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "packages").glob("*/src/**/*.py"))
# The one place that reads pickles, when asked to, by an unpickler that builds arrays alone.
PICKLES = {"packages/teva-infer/src/teva_infer/tevatron.py": "pickle"}
UNSAFE_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib"}
UNSAFE_CALLS = {"eval", "exec", "extractall", "unsafe_load", "full_load", "unpack_archive", "system", "mktemp"}
LOADERS = {"load_all", "load"}


def unsafe(source: str) -> list[tuple[int, str]]:
    """Line and name of what may run code that a file brings along."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [each.name for each in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            found += [(node.lineno, name) for name in names if name.partition(".")[0] in UNSAFE_MODULES]
        if not isinstance(node, ast.Call):
            continue
        of = node.func
        name = of.id if isinstance(of, ast.Name) else of.attr if isinstance(of, ast.Attribute) else ""
        owner = of.value.id if isinstance(of, ast.Attribute) and isinstance(of.value, ast.Name) else ""
        given = {each.arg: each.value for each in node.keywords}
        # `model.eval()` takes no argument.
        if name in UNSAFE_CALLS and (node.args or given or name != "eval"):
            found.append((node.lineno, name))
        if owner == "yaml" and name in LOADERS:
            loader = ast.unparse(given["Loader"]) if "Loader" in given else "none"
            if not loader.rpartition(".")[2].lstrip("_").startswith(("Safe", "CSafe", "UniqueKey")):
                found.append((node.lineno, f"yaml.{name} with {loader}"))
        if owner == "torch" and name == "load" and not _is(given.get("weights_only"), True):
            found.append((node.lineno, "torch.load"))
        if not _is(given.get("trust_remote_code"), None, False) or not _is(given.get("allow_pickle"), None, False):
            found.append((node.lineno, "trust_remote_code or allow_pickle"))
        if not _is(given.get("shell"), None, False):
            found.append((node.lineno, "shell"))
    return found


def _is(node: ast.expr | None, *allowed: object) -> bool:
    return (node is None and None in allowed) or (isinstance(node, ast.Constant) and node.value in allowed)


def test_no_source_runs_what_a_file_brings_along():
    assert len(SOURCES) > 200
    found = []
    for path in SOURCES:
        name = str(path.relative_to(ROOT))
        found += [f"{name}:{line}: {what}" for line, what in unsafe(path.read_text()) if PICKLES.get(name) != what]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "line",
    ["import pickle", "from pickle import loads", "eval(x)", "torch.load(x)", "torch.load(x, weights_only=False)",
     "yaml.load(x)", "yaml.load(x, Loader=yaml.Loader)", "f(trust_remote_code=True)", "f(trust_remote_code=options)",
     "np.load(x, allow_pickle=True)", "subprocess.run(x, shell=True)", "tar.extractall(x)", "exec(x)"],
)  # fmt: skip
def test_the_search_finds_what_it_looks_for(line):
    assert unsafe(line)
    assert not unsafe("model.eval(); torch.load(x, weights_only=True); yaml.safe_load(x); np.load(x)")


@pytest.mark.parametrize("path", ["../secret.png", "/etc/passwd", "a/../../secret.png", "..\\secret.png"])
def test_a_path_of_media_that_climbs_is_refused(tmp_path, path):
    (tmp_path / "secret.png").write_bytes(b"x")
    data = tmp_path / "data"
    data.mkdir()
    (data / "corpus.jsonl").write_text(json.dumps({"docid": "d", "document_image": path}) + "\n")
    with pytest.raises(DataError, match=r"corpus\.jsonl:1: field 'document_image'") as caught:
        Dataset.open(data).corpus  # noqa: B018
    assert "relative to the dataset's directory" in str(caught.value)


def test_members_of_an_archive_are_addressed_and_never_extracted(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    with tarfile.open(data / "media.tar", "w") as file:
        for name, kind in (("../out.png", tarfile.REGTYPE), ("link.png", tarfile.SYMTYPE), ("in.png", tarfile.REGTYPE)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname, member.size = kind, "/etc/passwd", 3 if kind == tarfile.REGTYPE else 0
            file.addfile(member, io.BytesIO(b"abc"))
    archives = Archives(data)
    assert archives.find("link.png") is None
    found = archives.find("in.png")
    assert found is not None
    assert found.path == data / "media.tar"
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["data", "media.tar"]


def test_a_picture_of_too_many_pixels_is_refused_before_it_is_decoded(tmp_path):
    from PIL import Image

    Image.new("1", (20_000, 20_000)).save(tmp_path / "bomb.png")
    assert (tmp_path / "bomb.png").stat().st_size < 200_000
    with pytest.raises(DataError, match=r"bomb\.png"):
        image.decode(Media("image", str(tmp_path / "bomb.png")))


@pytest.mark.parametrize("ending", ["gz", "zst"])
@pytest.mark.parametrize("name", ["corpus.jsonl", "run.tsv"])
def test_a_small_file_that_unpacks_to_an_endless_line_is_refused(tmp_path, monkeypatch, name, ending):
    from teva_data import columns, reader

    # The limits are far from what these files hold; with the real ones the test would take as long as the bomb.
    monkeypatch.setattr(reader, "LINE_LIMIT", 1 << 22)
    monkeypatch.setattr(columns, "LINE_LIMIT", 1 << 22)
    content = b"a" * (1 << 26)
    if ending == "gz":
        packed = gzip.compress(content)
    else:
        import pyarrow as pa

        packed = pa.compress(content, "zstd", asbytes=True)
    assert len(packed) < len(content) / 500
    path = tmp_path / f"{name}.{ending}"
    path.write_bytes(packed)
    with pytest.raises(DataError, match="a line of more than 4 MiB"):
        read_run(path) if name.startswith("run") else Dataset.open(tmp_path).corpus
