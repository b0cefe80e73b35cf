from __future__ import annotations

import importlib.metadata
import inspect
import subprocess
import sys

import pytest

import teva_infer
from teva_data.runs import read_run
from teva_infer import cli, clusters, encoding, searching
from teva_infer.cli import main

HEAVY = ("torch", "transformers", "tokenizers", "faiss", "pyarrow", "teva_torch")


def fresh(code: str) -> str:
    """What a new interpreter prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout


@pytest.mark.parametrize("argv", [["--help"], ["encode", "--help"], ["search", "--help"], ["--version"]])
def test_help_is_cheap(argv):
    code = f"""
import sys
from teva_infer.cli import main
try:
    main({argv!r})
except SystemExit as end:
    assert not end.code, end.code
print([name for name in {HEAVY!r} if name in sys.modules])
"""
    assert fresh(code).splitlines()[-1] == "[]"


def test_the_test_above_sees_heavy_imports():
    assert fresh(f"import sys, pyarrow; print([n for n in {HEAVY!r} if n in sys.modules])").strip() == "['pyarrow']"


def test_importing_the_package_is_cheap_and_names_are_there():
    code = f"import sys, teva_infer; print([n for n in {(*HEAVY, 'numpy')!r} if n in sys.modules], dir(teva_infer))"
    assert fresh(code).strip() == f"[] {sorted(teva_infer.__all__)}"
    assert teva_infer.__version__ == importlib.metadata.version("teva-infer")
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = teva_infer.nothing


def test_public_functions_are_functions_whatever_was_imported_before():
    code = """
import teva_infer.encoding, teva_infer.searching, teva_infer.encoder, teva_infer.engines, teva_infer.cli
import teva_infer
print(*(getattr(teva_infer, name).__name__ for name in ("encode", "search", "Encoder", "Engine")))
"""
    assert fresh(code).strip() == "encode search Encoder Engine"


def test_encode_and_search(tiny_model, tiny_data, bag, tmp_path, capsys):
    common = ["--engine", "bag", "--shard-size", "7"]
    assert main(["encode", str(tiny_model), str(tiny_data), "--output", str(tmp_path / "c"), *common]) == 0
    assert (
        main(["encode", str(tiny_model), str(tiny_data), "--output", str(tmp_path / "q"), "--split", "test", *common])
        == 0
    )
    out = capsys.readouterr().out
    assert f"{tmp_path / 'c'}: 60 vectors of 32 float32 numbers" in out
    arguments = ["--queries", str(tmp_path / "q"), "--corpus", str(tmp_path / "c"), "--depth", "5"]
    for extra in ([], ["--backend", "faiss"], ["--layout", "trec", "--batch", "3"]):
        assert main(["search", *arguments, "--output", str(tmp_path / "run.tsv"), *extra]) == 0
        run = read_run(tmp_path / "run.tsv")
        assert list(run) == [f"q{n}" for n in range(40, 48)]
        assert {len(hits) for hits in run.values()} == {5}


def test_errors_are_one_line_and_status_1(tiny_model, tiny_data, bag, tmp_path, capsys):
    def status(*argv):
        code = main([str(argument) for argument in argv])
        return code, capsys.readouterr().err.strip().splitlines()[-1].removeprefix("teva-infer: error: ")

    output = tmp_path / "emb"
    code, line = status("encode", tmp_path, tiny_data, "--output", output)
    assert (code, line.startswith(f"{tmp_path}: no config.json")) == (1, True)
    code, line = status("encode", tiny_model, tmp_path, "--output", output, "--engine", "bag")
    assert (code, line.startswith(f"{tmp_path}: no corpus")) == (1, True)
    code, line = status("encode", tiny_model, tiny_data, "--output", output, "--engine", "bagg")
    assert (code, line) == (1, "unknown engine 'bagg'. Did you mean 'bag'?")
    code, line = status("search", "--queries", output, "--corpus", output, "--output", tmp_path / "run")
    assert (code, line.startswith(f"{output}: no embeddings here")) == (1, True)
    assert not (tmp_path / "run").exists()
    with pytest.raises(SystemExit) as caught:
        main(["search", "--queries", str(output)])
    assert caught.value.code == 2


OWN = {"engine_option": "engine_options", "knob": "knobs"}  # key=value words, of which the verb makes a mapping


def _options(verb):
    """Name to parameter of a verb, those in a dataclass of options among them."""
    found = dict(inspect.signature(verb).parameters)
    if shared := found.pop("options", None):
        found |= inspect.signature(type(shared.default)).parameters
    return found


def test_defaults_are_those_of_the_api():
    for verb, function in (
        (cli.encode, encoding.encode),
        (cli.ray_encode, clusters.encode_on_ray),
        (cli.search, searching.search),
        (cli.merge, searching.merge_runs),
    ):
        api, options = inspect.signature(function).parameters, _options(verb)
        for name, parameter in options.items():
            if name not in OWN and parameter.default is not parameter.empty:
                assert parameter.default == api[name].default, name
        assert {OWN.get(name, name) for name in options} == set(api)
