"""A real engine without a framework, found through a real entry point, for tests of what surrounds an engine."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path

import pytest

# A bag of tokens: each id is a fixed random direction, a text their mean. It can be told to be slow, to fail, or to
# write down what it is asked, by environment variables, since it also runs in processes of its own.
BAG_ENGINE = textwrap.dedent('''
    """A bag of hashed tokens as an engine."""
    import json, os, time
    import numpy as np

    class BagEngine:
        def __init__(self, artifact):
            self.dim, self.normalize = artifact.dim, artifact.normalize
            self.table = np.random.default_rng(7).standard_normal((4096, self.dim)).astype(np.float32)

        @classmethod
        def load(cls, artifact, *, device="auto", dtype="float32"):
            return cls(artifact)

        def encode(self, token_ids):
            time.sleep(float(os.environ.get("BAG_SECONDS", 0)))
            if "BAG_LOG" in os.environ:
                with open(os.environ["BAG_LOG"], "a") as file:
                    file.write(json.dumps([len(ids) for ids in token_ids]) + "\\n")
            size = len(token_ids) * max(map(len, token_ids))
            if size > int(os.environ.get("BAG_MEMORY", 10**9)):
                from teva_data.errors import EngineMemoryError
                raise EngineMemoryError(f"{size} tokens")
            vectors = np.stack([self.table[np.array(ids) % 4096].mean(axis=0) for ids in token_ids])
            if self.normalize:
                vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
            if "BAG_NAN" in os.environ:
                vectors[-1, 0] = np.nan
            return vectors[:, : int(os.environ.get("BAG_DIM", self.dim))]
''')


@pytest.fixture(scope="session")
def bag_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory as pip would fill it with the distribution `bag-engine`."""
    directory = tmp_path_factory.mktemp("site")
    (directory / "bag_engine.py").write_text(BAG_ENGINE)
    (directory / "bag_wanting.py").write_text("import a_library_that_is_not_there\n")
    info = directory / "bag_engine-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: bag-engine\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[teva_infer.engines]\nbag = bag_engine:BagEngine\nbroken = bag_engine_of_no_module:Engine\n"
        "misnamed = bag_engine:NoEngine\nwanting = bag_wanting:Engine\n"
        "[teva_infer.indexes]\nmisnamed_index = bag_engine:NoIndex\n"
    )
    return directory


@pytest.fixture
def bag(bag_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of the installed bag engine."""
    monkeypatch.syspath_prepend(bag_path)
    yield "bag"
    sys.modules.pop("bag_engine", None)
