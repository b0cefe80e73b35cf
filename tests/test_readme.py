"""The README's Python block runs as it stands."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"


def test_the_python_api_in_ten_lines(tiny_model, tiny_data, tmp_path, monkeypatch):
    from teva_torch import propose

    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_data, "my-data")
    Path("recipe.yaml").write_text(propose("my-data", str(tiny_model)))
    (block,) = re.findall(r"^```python\n(.*?)^```", README.read_text(), flags=re.MULTILINE | re.DOTALL)
    names: dict[str, object] = {}
    exec(block, names)
    assert names["vectors"].shape == (1, 32)
    assert set(names["run"]) == set(names["data"].qrels("test"))


def test_the_map_names_what_is_there():
    text = README.read_text()
    packages = README.parent / "packages"
    for package, modules in re.findall(
        r"^packages/(teva-\w+)/src/\w+/ +((?:[\w/]+, )*[\w/]+)  ", text, flags=re.MULTILINE
    ):
        source = packages / package / "src" / package.replace("-", "_")
        for module in modules.split(", "):
            assert (source / f"{module}.py").exists() or (source / module.rstrip("/")).is_dir(), f"{package}: {module}"
    assert len(re.findall(r"^packages/", text, flags=re.MULTILINE)) == 5
