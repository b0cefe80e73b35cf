"""Pictures through `teva-infer encode`: decoded beside the computing, in little memory, again after a stop, in smaller
batches after running out of memory."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from tests.torch import vision_models

from teva_data.artifact import Artifact, write_layout
from teva_data.dataset import Dataset
from teva_data.errors import DataError, EngineMemoryError, TevaError
from teva_data.pictures import PictureReader, Tokens
from teva_data.rendering import Renderer
from teva_infer import Encoder, encode
from teva_torch.engine import TorchEngine


class LimitedEngine(TorchEngine):
    """Real, with a memory of so many tokens, and a number of batches after which it is stopped."""

    most, left = 10**9, 10**9

    def encode(self, token_ids, /):
        if len(token_ids) * max(map(len, token_ids)) > self.most:
            raise EngineMemoryError("out of memory")
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        self.batches.append(token_ids)
        return super().encode(token_ids)

    stream = property()  # so that encode is called for each batch


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return vision_models.make_data(tmp_path_factory.mktemp("encoded") / "data", pictures=10)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = vision_models.make(tmp_path_factory.mktemp("encoder") / "model", "Qwen2VL")
    write_layout(path, pooling="last", normalize=True, dim=32, max_length=80, prompts={}, teva={}, card="")
    return path


def _encoder(model, **limits):
    artifact = Artifact.load(model)
    engine = LimitedEngine(TorchEngine.load(artifact, device="cpu").model)
    engine.batches = []
    for name, value in limits.items():
        setattr(engine, name, value)
    return Encoder(artifact, Renderer.from_artifact(artifact), engine, "torch")


def test_smaller_batches_after_running_out_of_memory(model, data):
    documents = list(Dataset.open(data).corpus)
    expected = _encoder(model).encode_documents(documents, batch_tokens=400)
    encoder = _encoder(model, most=150)
    np.testing.assert_allclose(encoder.encode_documents(documents, batch_tokens=400), expected, atol=1e-6)
    sizes = [len(batch) * max(map(len, batch)) for batch in encoder.engine.batches]
    assert max(sizes) <= 150
    assert sum(map(len, encoder.engine.batches)) == len(documents)  # none twice
    assert not any(thread.name.startswith("teva-decode") for thread in threading.enumerate())
    with pytest.raises(EngineMemoryError, match="by itself"):
        _encoder(model, most=10).encode_documents(documents)


def test_a_stopped_encode_goes_on(model, data, tmp_path):
    whole = encode(_encoder(model), data, tmp_path / "whole", shard_size=7, batch_tokens=100)
    with pytest.raises(KeyboardInterrupt):
        encode(_encoder(model, left=8), data, tmp_path / "stopped", shard_size=7, batch_tokens=100)
    done = {path.name for path in (tmp_path / "stopped").glob("shard-*.arrow")}
    assert 0 < len(done) < len(list((tmp_path / "whole").glob("shard-*.arrow")))
    again = _encoder(model)
    found = encode(again, data, tmp_path / "stopped", shard_size=7, batch_tokens=100)
    assert sum(map(len, again.engine.batches)) == len(Dataset.open(data).corpus) - 7 * len(done)
    np.testing.assert_array_equal(found.matrix(), whole.matrix())


def test_pictures_are_decoded_in_other_threads_one_batch_ahead(model, data, monkeypatch):
    read, names, kept = PictureReader.read, set(), []
    gate = threading.Event()

    def noted(self, media):
        names.add(threading.current_thread().name.rpartition("_")[0])
        return read(self, media)

    class Watching(LimitedEngine):
        def encode(self, token_ids, /):
            gate.wait(0.2)  # long enough for what is decoded ahead
            kept.append(len(names_done))
            return super().encode(token_ids)

    names_done: list[int] = []
    keep = Tokens.keep

    def loaded(self, pictures):
        keep(self, pictures)
        names_done.append(1)

    monkeypatch.setattr(PictureReader, "read", noted)
    monkeypatch.setattr(Tokens, "keep", loaded)
    encoder = _encoder(model)
    encoder.engine.__class__ = Watching
    documents = [one for one in Dataset.open(data).corpus if one.media]
    encoder.encode_documents(documents, batch_tokens=100)
    assert names == {"teva-pictures"}
    sizes = [len(batch) for batch in encoder.engine.batches]
    assert len(sizes) >= 5
    # While a batch is computed, the one after it is decoded, and at most one more has been begun.
    for number, done in enumerate(kept):
        assert done >= sum(sizes[: number + 1])
        assert done <= sum(sizes[: number + 3])
    assert kept[0] > sizes[0]


def test_a_broken_picture_is_named(model, tmp_path):
    place = vision_models.make_data(tmp_path / "data", pictures=4)
    dataset = Dataset.open(place)
    len(dataset.corpus)
    broken = place / "images/2.png"
    content = broken.read_bytes()
    broken.write_bytes(content[:60] + bytes(len(content) - 60))
    with pytest.raises(DataError, match=r"images/2\.png"):
        encode(_encoder(model), dataset, tmp_path / "out", shard_size=5)


def test_an_engine_without_pictures_is_told(model, data):
    encoder = _encoder(model)
    encoder.engine.pictures = False
    with pytest.raises(TevaError, match="takes no pictures"):
        encoder.encode_documents(list(Dataset.open(data).corpus))
