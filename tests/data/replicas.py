"""Makes small copies of published datasets, in the columns and types that they really have, for tests."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

Rows = Sequence[Mapping[str, Any]]


def png(seed: int, size: tuple[int, int] = (12, 9)) -> bytes:
    """A real picture, another for each seed."""
    image = Image.new("RGB", size, ((seed * 37) % 256, (seed * 91) % 256, (seed * 151) % 256))
    image.putpixel((seed % size[0], 0), (255, 255, 255))
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def image_of(seed: int, name: str | None = None) -> dict[str, Any]:
    """A picture as Hugging Face stores it."""
    return {"bytes": png(seed), "path": name}


def hub_repository(
    directory: Path, configs: Mapping[str, Mapping[str, Rows]], features: Mapping[str, Mapping[str, Any]]
) -> Path:
    """A dataset repository as `datasets` pushes it: Parquet by config and split, declared in the README.

    Args:
        directory: where; made.
        configs: rows by config and split.
        features: of each config, by the names of columns: a dtype ("string"), a list of one (["string"]), a list of
            one mapping for a list of structs, or a feature of `datasets`.
    """
    from datasets import Dataset, Features

    declared = []
    for config, splits in configs.items():
        types = Features({name: _feature(kind) for name, kind in features[config].items()})
        folder = "data" if config == "default" else config
        (directory / folder).mkdir(parents=True, exist_ok=True)
        for split, rows in splits.items():
            columns = {name: [row.get(name) for row in rows] for name in types}
            Dataset.from_dict(columns, features=types).to_parquet(
                directory / folder / f"{split}-00000-of-00001.parquet"
            )
        files = [{"split": split, "path": f"{folder}/{split}-*"} for split in splits]
        declared.append({"config_name": config, "data_files": files})
    (directory / "README.md").write_text(f"---\n{yaml.safe_dump({'configs': declared})}---\n")
    return directory


def _feature(kind: Any) -> Any:
    from datasets import List, Value

    if isinstance(kind, str):
        return Value(kind)
    if isinstance(kind, list):
        return List(_feature(kind[0]))
    if isinstance(kind, Mapping):
        return {name: _feature(each) for name, each in kind.items()}
    return kind
