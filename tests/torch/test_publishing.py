from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from http.server import ThreadingHTTPServer

import pytest
from tests.torch.backbones import make

import torch
from teva_data.artifact import Artifact
from teva_data.errors import ArtifactError, TevaError
from teva_data.uploading import push
from teva_torch.cli import main
from teva_torch.engine import TorchEngine
from teva_torch.publishing import export_model, merge_adapter
from teva_torch.training import train

IDS = [[3, 5, 9, 11, 20, 21, 8, 2], [3, 12, 2]]


def _vectors(artifact):
    return torch.from_numpy(TorchEngine.load(artifact, device="cpu").encode(IDS))


@pytest.fixture
def adapted(recipe, tmp_path):
    make(tmp_path / "llama", "Llama")
    recipe["model"] |= {"name": str(tmp_path / "llama"), "pooling": "last", "normalize": True}
    recipe["train"] |= {"steps": 4, "save_every": 2, "learning_rate": 1e-2}
    recipe["prompts"] = {"query": "how ", "document": ""}
    recipe["torch"]["lora"] = {"rank": 4}
    return recipe


@pytest.mark.parametrize("lora", [False, True])
def test_a_checkpoint(adapted, tmp_path, capsys, lora):
    adapted["torch"]["lora"] = {"rank": 4} if lora else None
    whole = train(adapted).artifact
    run = tmp_path / "run"
    assert main(["export", str(run / "checkpoints/step-00000002"), "--device", "cpu"]) == 0
    artifact = Artifact.load(run / "artifact-step-00000002")
    assert capsys.readouterr().out.strip() == str(artifact.path)
    assert artifact.teva["steps"] == 2
    assert set(artifact.teva["parity"]) == {"teva-torch", "sentence-transformers"}
    assert (artifact.prompts, artifact.max_length) == (whole.prompts, whole.max_length)
    last = export_model(run / "checkpoints/step-00000004", tmp_path / "last", device="cpu")
    assert torch.equal(_vectors(last), _vectors(whole))
    assert not torch.allclose(_vectors(artifact), _vectors(whole), atol=1e-4)
    assert (last.path / "adapter").is_dir() is lora


def test_a_checkpoint_of_another_base_or_without_its_run(adapted, tmp_path):
    train(adapted)
    step = tmp_path / "run/checkpoints/step-00000004"
    recipe = tmp_path / "run/recipe.yaml"
    text = recipe.read_text()
    recipe.write_text(text.replace("parity_cosine: 0.", "parity_cosine: 0.1"))
    with pytest.raises(TevaError, match=r"recipe\.yaml: damaged or edited"):
        export_model(step)
    recipe.write_text(text)
    make(tmp_path / "llama", "Llama", rms_norm_eps=1e-3)
    with pytest.raises(TevaError, match="are not those that the run began with"):
        export_model(step)
    shutil.copytree(step, tmp_path / "moved/checkpoints/step-00000004")
    with pytest.raises(TevaError, match=r"no .*moved/recipe\.yaml"):
        export_model(tmp_path / "moved/checkpoints/step-00000004")


def test_another_layout(tiny_model, tmp_path):
    with pytest.raises(TevaError, match=r"not an artifact of teva yet; .*--output"):
        export_model(tiny_model, device="cpu")
    source = shutil.copytree(tiny_model, tmp_path / "source")
    (source / "README.md").write_text("---\nlicense: mit\n---\n# Their model\n")
    artifact = export_model(source, tmp_path / "artifact", device="cpu")
    assert torch.equal(_vectors(artifact), _vectors(Artifact.load(tiny_model)))
    assert artifact.teva["base"]["fingerprint"] == Artifact.load(source).fingerprint
    assert "license: mit" in (artifact.path / "README.md").read_text()
    assert export_model(artifact.path, device="cpu").path == artifact.path


def test_an_artifact_that_fails_the_gate_is_not_published(adapted, tmp_path, capsys):
    from safetensors.torch import load_file, save_file

    artifact = train(adapted).artifact
    weights = load_file(artifact.path / "model.safetensors")
    weights["norm.weight"][0] = float("nan")
    save_file(weights, artifact.path / "model.safetensors", {"format": "pt"})
    (artifact.path / "checksums.json").unlink()  # which would be the first to tell
    words = ["export", str(artifact.path), "--push", "me/small", "--dry-run", "--device", "cpu"]
    assert main(words) == 1
    told = capsys.readouterr()
    assert "gives other vectors for the exported model: smallest cosine nan" in told.err
    assert told.out == ""
    assert main([*words, "--output", str(tmp_path / "copy")]) == 1
    assert not (tmp_path / "copy").exists()


@pytest.mark.parametrize("around", ["artifact", "nothing"])
def test_merge(adapted, tmp_path, capsys, around):
    whole = train(adapted).artifact
    adapter = whole.path / "adapter"
    words = []
    if around == "nothing":
        adapter = shutil.copytree(adapter, tmp_path / "adapter")
        with pytest.raises(ArtifactError, match=r"found a PEFT adapter alone.*teva-torch merge"):
            Artifact.load(adapter)
        assert main(["merge", str(adapter), "--output", str(tmp_path / "merged"), "--device", "cpu"]) == 1
        assert "does not say how to pool" in capsys.readouterr().err
        words = ["--pooling", "last", "--normalize", "True"]
    assert main(["merge", str(adapter), "--output", str(tmp_path / "merged"), "--device", "cpu", *words]) == 0
    merged = Artifact.load(tmp_path / "merged")
    assert torch.equal(_vectors(merged), _vectors(whole))
    assert (merged.pooling, merged.normalize) == ("last", True)
    assert merged.prompts["query"] == ("how " if around == "artifact" else "")
    assert (merged.path / "adapter/adapter_model.safetensors").is_file()
    from teva_data.rendering import load_tokenizer

    assert load_tokenizer(merged)("red")["input_ids"][-1] == 2
    # The base named, and the adapter taken from the merged artifact again.
    again = merge_adapter(
        merged.path / "adapter", tmp_path / "again", base=str(tmp_path / "llama"), device="cpu"
    )  # fmt: skip
    assert torch.equal(_vectors(again), _vectors(whole))


def test_what_is_no_lora_adapter(tmp_path):
    with pytest.raises(ArtifactError, match=r"adapter_config\.json: cannot be read"):
        merge_adapter(tmp_path, tmp_path / "out")
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "IA3"}')
    with pytest.raises(ArtifactError, match="found 'IA3'; expected 'LORA'"):
        merge_adapter(tmp_path, tmp_path / "out")
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    with pytest.raises(ArtifactError, match=r"which model it adapts.*--base"):
        merge_adapter(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_dry_run_asks_no_hub(tiny_model, tmp_path, capsys, monkeypatch):
    artifact = export_model(tiny_model, tmp_path / "artifact", device="cpu")
    (artifact.path / ".cache").mkdir()
    (artifact.path / ".cache/secret").write_text("x")
    words = ["export", str(artifact.path), "--push", "me/small", "--dry-run", "--device", "cpu"]
    assert main(words) == 0
    out = capsys.readouterr().out
    for name in ("model.safetensors", "1_Pooling/config.json", "README.md", "teva.json", "tokenizer.json"):
        assert name in out
    assert "secret" not in out
    assert "not uploaded" in out
    assert (artifact.path / "README.md").read_text() in out
    with pytest.raises(TevaError, match="expected owner/name"):
        push(artifact, "small", dry_run=True)


def test_push(tiny_model, tmp_path):
    from tests.data.test_pushing import Hub

    artifact = export_model(tiny_model, tmp_path / "artifact", device="cpu")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.files, server.seen, server.refuse, server.created = {}, [], 0, None
    server.address = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    code = (
        "import sys; from pathlib import Path; from teva_data.artifact import Artifact\n"
        "from teva_data.uploading import push\n"
        "push(Artifact.load(sys.argv[1]), 'me/small', private=True, revision=sys.argv[2] or None, token='hf_test')"
    )

    def run(branch):
        # An interpreter of its own: the hub's address is read when its client is imported.
        return subprocess.run(
            [sys.executable, "-c", code, str(artifact.path), branch],
            capture_output=True, text=True, timeout=120, check=False,
            env={"HF_ENDPOINT": server.address, "PATH": "", "HF_HOME": str(tmp_path / "hf"), "HOME": "/"},
        )  # fmt: skip

    try:
        done = run("draft")
        assert done.returncode == 0, done.stderr
        assert server.created["visibility"] == "private"
        assert server.created.get("type", "model") == "model"
        assert any(path.endswith("/commit/draft") for path in server.seen)
        files = [path for path in artifact.path.rglob("*") if path.is_file()]
        assert server.files == {path.relative_to(artifact.path).as_posix(): path.read_bytes() for path in files}
        server.refuse = 403
        done = run("")
        assert "write access" in done.stderr
    finally:
        server.shutdown()
        server.server_close()
