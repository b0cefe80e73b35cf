from __future__ import annotations

import json
import platform
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:  # benchmarks is no installed package
    sys.path.insert(0, str(ROOT))

from benchmarks.claims import runner  # noqa: E402

EVAL = """
from benchmarks.claims import Context, Result, claim


@claim("eval", "real_run", name="passes", target="two is two", peer="{numpy}'s two, and {no-such-package}")
def passes(context: Context) -> Result:
    import numpy as np

    (context.work / "file").write_text("left here")
    assert [path.name for path in context.work.iterdir()] == ["file"]
    figures = {"two": np.float32(2.0), "many": np.int64(1234567), "shape": (1, 2), "nothing": float("nan")}
    return Result(figures, passed=True, notes=f"quick {context.quick}, seed {context.seed}, data {context.data}",
                  details={"rows": np.arange(3), "at": context.work})


@claim("eval", name="falls_short", target="three is two", peer=lambda: "a peer made when it is run")
def falls_short(context: Context) -> Result:
    return Result({"three": 3}, passed=False)


@claim("eval", name="raises", target="no error")
def raises(context: Context) -> Result:
    raise RuntimeError("the disk is full")


@claim("torch", name="elsewhere", target="in another group's module: not found here")
def elsewhere(context: Context) -> Result:
    return Result({}, passed=True)
"""

DATA = """
from benchmarks.claims import Context, Result, claim


@claim("data", name="reads", target="a file is read", needs=("data",))
def reads(context: Context) -> Result:
    return Result({"text": (context.data / "text").read_text()}, passed=True)


@claim("data", name="takes_long", target="is patient", slow=True)
def takes_long(context: Context) -> Result:
    return Result({}, passed=True)
"""

SCALE = """
from benchmarks.claims import Context, Result, claim


@claim("scale", name="fast", target="fast on a GPU", needs=("gpu",))
def fast(context: Context) -> Result:
    import torch

    return Result({"sum": torch.ones(3, device="cuda").sum().item()}, passed=True)
"""


@pytest.fixture
def run(tmp_path, monkeypatch, request):
    """Runs the command line on a package of tiny claims; gives the status."""
    package = f"claims_{abs(hash(request.node.nodeid))}"
    directory = tmp_path / "modules" / package
    directory.mkdir(parents=True)
    for name, text in {"__init__": "", "eval": EVAL, "data": DATA, "scale": SCALE}.items():
        (directory / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(str(directory.parent))
    monkeypatch.delenv("TEVA_CLAIMS_DATA", raising=False)
    monkeypatch.chdir(tmp_path)

    def call(*arguments, output=tmp_path / "results"):
        return runner.main([*arguments, "--output", str(output)], package)

    return call


@pytest.fixture
def results(tmp_path):
    def read(name):
        return json.loads((tmp_path / "results" / f"{name}.json").read_text())

    return read


def test_a_claim_that_is_met(run, results, capsys, tmp_path):
    assert run("passes", "--seed", "7", "--data", "somewhere") == 0
    printed = capsys.readouterr().out
    for words in ("passes (eval, real_run)", "two is two", f"numpy {version('numpy')}'s two", "no-such-package (not",
                  "2.0000", "1,234,567", "verdict  met", "1 of 1 claims met"):  # fmt: skip
        assert words in printed
    record = results("passes")
    assert record["figures"] == {"two": 2.0, "many": 1234567, "shape": [1, 2], "nothing": "nan"}
    assert record["details"]["rows"] == [0, 1, 2]
    assert record["notes"] == "quick False, seed 7, data somewhere"
    assert not Path(record["details"]["at"]).exists()
    assert (record["schema"], record["verdict"], record["quick"], record["seed"]) == ("1", "met", False, 7)
    assert record["groups"] == ["eval", "real_run"]
    assert record["command"].endswith(f"passes --seed 7 --data somewhere --output {tmp_path / 'results'}")
    assert record["versions"]["python"] == platform.python_version()
    assert record["versions"]["teva-eval"] == version("teva-eval")
    assert record["machine"]["cpus"] >= 1
    assert record["machine"]["platform"] == platform.platform()


def test_one_that_falls_short_or_raises_fails_the_run_and_stops_no_other(run, results, capsys):
    assert run("raises", "falls_short", "passes") == 1
    printed = capsys.readouterr().out
    assert "RuntimeError: the disk is full" in printed
    assert "1 of 3 claims met" in printed
    assert "falls_short: MISSED" in printed
    assert "raises: failed with error" in printed
    assert [results(name)["verdict"] for name in ("raises", "falls_short", "passes")] == [
        "failed with error", "MISSED", "met",
    ]  # fmt: skip
    assert results("raises")["figures"] == {}
    assert 'RuntimeError("the disk is full")' in results("raises")["error"]
    assert results("falls_short")["peer"] == "a peer made when it is run"


def test_a_claim_belongs_to_several_groups_and_runs_once(run, capsys):
    assert run("real_run") == 0
    assert "1 of 1 claims met" in capsys.readouterr().out
    assert run("real_run", "eval", "eval/passes") == 1
    printed = capsys.readouterr().out
    assert "1 of 3 claims met" in printed
    assert "elsewhere" not in printed


def test_groups_without_claims_are_not_passed(run, capsys):
    assert run("jax") == 1
    assert "group jax: no claims yet; not counted as passed\n0 of 0 claims met" in capsys.readouterr().out
    assert run("jax", "passes") == 0
    assert "group jax: no claims yet" in capsys.readouterr().out


def test_gpu_claims_are_not_met_without_one_and_do_not_fail_the_run(run, capsys, tmp_path):
    status = run("scale", "passes")
    printed = capsys.readouterr().out
    assert status == 0
    if runner.has_gpu():
        assert "2 of 2 claims met" in printed
    else:
        assert "fast: not met: needs a GPU" in printed
        assert "1 of 2 claims met" in printed
        assert "do not count as met, and do not fail this run" in printed
        assert not (tmp_path / "results" / "fast.json").exists()


def test_missing_data_is_named_and_fails(run, capsys, tmp_path, monkeypatch):
    assert run("reads", "--data", str(tmp_path / "absent")) == 1
    assert f"no directory {tmp_path / 'absent'}; name it with --data or TEVA_CLAIMS_DATA" in capsys.readouterr().out
    (tmp_path / "text").write_text("found")
    assert run("reads", "--data", str(tmp_path)) == 0
    assert "found" in capsys.readouterr().out
    monkeypatch.setenv("TEVA_CLAIMS_DATA", str(tmp_path))
    assert run("reads") == 0


def test_quick_leaves_slow_claims_out_and_keeps_the_real_records(run, results, capsys):
    assert run("passes", "takes_long") == 0
    assert run("passes", "takes_long", "--quick") == 0
    assert "takes_long: not run: slow, left out by --quick" in capsys.readouterr().out
    assert results("passes")["quick"] is False
    assert results("passes.quick")["quick"] is True


def test_work_directories_are_kept_on_demand_and_always_empty_at_first(run, tmp_path):
    for _ in range(2):
        assert run("passes", "--work", "kept") == 0
    kept = sorted((tmp_path / "kept").iterdir())
    assert [path.name.rpartition("-")[0] for path in kept] == ["passes", "passes"]
    assert [(path / "file").read_text() for path in kept] == ["left here"] * 2


@pytest.mark.parametrize(
    ("name", "words"),
    [("evall", "'eval'"), ("pases", "'passes'"), ("data/passes", "'passes'"), ("nonsense!", "Known: ")],
)
def test_an_unknown_name_is_an_error(run, capsys, name, words):
    assert run(name) == 2
    error = capsys.readouterr().err
    assert f"no claim or group {name!r}" in error
    assert words in error


def test_list_runs_nothing(run, capsys, tmp_path):
    assert run("--list") == 0
    printed = capsys.readouterr().out
    assert "passes  (eval, real_run)\n    two is two\n" in printed
    assert "fast  (scale)  needs gpu" in printed
    assert "takes_long  (data)  slow" in printed
    assert "group jax: no claims yet" in printed
    assert not (tmp_path / "results").exists()


def test_declarations_are_checked():
    for arguments, settings, words in [
        (["evil"], {}, "'eval'"),
        (["eval"], {"needs": ("dota",)}, "'data'"),
        ([], {}, "no group"),
    ]:
        with pytest.raises(runner.TevaError, match=words):
            runner.claim(*arguments, name="x", target="y", **settings)


def test_a_claim_must_return_a_result(run, results, tmp_path, capsys):
    package = next((tmp_path / "modules").iterdir())
    (package / "faults.py").write_text(
        "from benchmarks.claims import claim\n"
        "@claim('faults', name='forgets', target='t')\ndef forgets(context): pass\n"
        "@claim('faults', name='leaves', target='t')\ndef leaves(context): raise SystemExit(0)\n"
    )
    assert run("faults") == 1
    assert "returned NoneType, not a Result" in results("forgets")["error"]
    assert results("leaves")["verdict"] == "failed with error"


def test_two_claims_of_one_name_are_an_error(run, tmp_path, capsys):
    package = next((tmp_path / "modules").iterdir())
    (package / "real_run.py").write_text(
        "from benchmarks.claims import claim\n@claim('real_run', name='passes', target='t')\ndef other(context): pass\n"
    )
    assert run("real_run") == 2
    assert "two claims are named 'passes'" in capsys.readouterr().err


def test_the_real_claims_can_be_listed(capsys):
    assert runner.main(["--list", "eval"]) == 0
    assert "trec_eval_reference  (eval, real_run)  needs data" in capsys.readouterr().out
