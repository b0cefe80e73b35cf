"""Pictures through `teva-infer encode`: decoded beside the computing, in little memory, again after a stop, in smaller
batches after running out of memory."""

from __future__ import annotations

import dataclasses
import json
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.torch import vision_models

from teva_data.artifact import Artifact
from teva_data.dataset import Dataset
from teva_data.errors import DataError, EngineMemoryError, TevaError
from teva_data.inputs import PieceTokens, Placed, Tokens
from teva_data.layout import write_layout
from teva_data.leaving_out import read_inputs
from teva_data.pictures import PictureReader
from teva_data.rendering import Renderer
from teva_infer import Encoder, encode, evaluating, search
from teva_infer.encoding import Source
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


@pytest.fixture(scope="module")
def damaged(model, tmp_path_factory):
    """24 documents, the pictures of d2 cut short, of d5 cut within its head, of d8 gone, of d11 empty."""
    place = vision_models.make_data(tmp_path_factory.mktemp("damaged") / "data", pictures=24)
    Image.effect_noise((60, 40), 80).save(place / "whole.jpg")
    content = (place / "whole.jpg").read_bytes()
    (place / "images/2.png").write_bytes(content[:-100])  # its size can still be read
    (place / "images/5.png").write_bytes(content[:12])
    (place / "images/8.png").unlink()
    (place / "images/11.png").write_bytes(b"")
    return place


def test_those_that_cannot_be_read_are_left_out_and_named(model, damaged, tmp_path, caplog):
    rows = list(Dataset.open(damaged, lenient=True).corpus)
    bad = {one.docid for one in rows for media in one.media if int(Path(media.path).stem) in (2, 5, 8, 11)}
    good = [one for one in rows if one.docid not in bad]
    assert 4 <= len(bad) < len(rows)
    found = encode(_encoder(model), damaged, tmp_path / "out", shard_size=5, batch_tokens=100, bad_media="skip")
    assert found.ids() == [one.docid for one in good]
    assert set(found.left_out) == bad
    assert all(str(damaged / "images") in why for why in found.left_out.values())
    assert f"{len(bad)} of {len(rows)} are left out" in caplog.text
    np.testing.assert_allclose(found.matrix(), _encoder(model).encode_documents(good), atol=1e-5)
    assert len(found) == found.manifest["count"] == len(good)
    _, vectors = next(found.take_vectors(np.array([len(good) - 1]), 1))
    np.testing.assert_array_equal(vectors[0], found.matrix()[-1])


def test_what_ended_with_an_error_goes_on_without_them(model, damaged, tmp_path):
    dataset, out = Dataset.open(damaged, lenient=True), tmp_path / "out"
    with pytest.raises(DataError, match=r"images/\d+\.png"):
        encode(_encoder(model), dataset, out, shard_size=2, batch_tokens=100)
    kept = {path: path.read_bytes() for path in out.glob("shard-*.arrow")}
    assert kept
    with pytest.raises(KeyboardInterrupt):
        encode(_encoder(model, left=9), dataset, out, shard_size=2, batch_tokens=100, bad_media="skip")
    assert all(path.read_bytes() == content for path, content in kept.items())
    # One that was renamed and not entered: what it left out stands in it too.
    manifest = json.loads((out / "manifest.json").read_text())
    known = next(entry for entry in manifest["shards"] if entry.get("left_out"))
    manifest["shards"].remove(known)
    del manifest["seal"]
    (out / "manifest.json").write_text(json.dumps(manifest))
    found = encode(_encoder(model), dataset, out, shard_size=2, batch_tokens=100, bad_media="skip")
    whole = encode(_encoder(model), damaged, tmp_path / "whole", shard_size=2, batch_tokens=100, bad_media="skip")
    assert known in found.manifest["shards"]
    assert (out / "manifest.json").read_bytes() == (tmp_path / "whole/manifest.json").read_bytes()
    np.testing.assert_array_equal(found.matrix(), whole.matrix())


def test_a_shard_with_nothing_left(model, damaged, tmp_path):
    """Search takes it, and other dtypes too."""
    out, queries = tmp_path / "out", tmp_path / "queries"
    dataset = Dataset.open(damaged, lenient=True)
    found = encode(_encoder(model), dataset, out, shard_size=1, vector_dtype="int8", bad_media="skip")
    assert not all(entry["rows"] for entry in found.manifest["shards"])
    encode(_encoder(model), dataset, queries, split="train", bad_media="skip")
    run = search(queries, out, depth=100)
    assert all({docid for docid, _ in hits} == set(found.ids()) for hits in run.values())
    (cut,) = (each for each in [evaluating.cut(found, 16, tmp_path)])
    assert cut.ids() == found.ids()


@pytest.mark.parametrize("reads", ["tokens", "texts"])
def test_left_out_before_an_engine_that_decodes_by_itself(model, damaged, reads):
    """Such an engine (vLLM) is given what can be decoded, and any text for the others."""
    given = []

    class Placing(LimitedEngine):
        pictures, inputs = "placed", reads

        def encode(self, rows, /):
            given.extend(rows)
            return np.ones((len(rows), 32), np.float32)

    encoder = _encoder(model)
    encoder.engine.__class__ = Placing
    source = Source(Dataset.open(damaged, lenient=True).corpus, encoder)
    bad: dict = {}
    _, texts, ids = source.rows(0, 12, bad)
    assert set(bad) == {5, 8, 11}  # their heads cannot be read
    encoder.encode_rows(ids, texts, bad=bad)
    assert set(bad) == {2, 5, 8, 11}
    placed = [one for one in given if isinstance(one, Placed)]
    assert len(placed) == 4  # of the eight rows with pictures
    for one in placed:
        one.images()


def _merging(model, tmp_path, engine, dim=None):
    """An encoder whose records of several pieces are the mean of these, over texts by an engine of its own."""
    artifact = dataclasses.replace(Artifact.load(model), normalize=True)
    return Encoder(artifact, Renderer.from_artifact(artifact, merge="mean"), engine, "made", dim=dim)


class OfTexts:
    """An engine that reads texts: a vector of their letters."""

    inputs, pictures = "texts", "placed"

    def encode(self, rows, /):
        texts = [row.content if isinstance(row, Placed) else row for row in rows]
        found = np.stack([np.random.default_rng(list(text.encode())).normal(size=32) for text in texts])
        return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)


def test_a_record_left_out_shifts_no_other_for_an_engine_of_texts(model, damaged, tmp_path):
    encoder = _merging(model, tmp_path, OfTexts())
    rows = list(Dataset.open(damaged, lenient=True).corpus)
    found = encode(encoder, damaged, tmp_path / "out", shard_size=30, bad_media="skip")
    good = [one for one in rows if one.docid in set(found.ids())]
    assert len(rows) - len(good) >= 4
    np.testing.assert_allclose(found.matrix(), encoder.encode_documents(good), atol=1e-6)


def test_pieces_are_merged_whole_and_cut_then(model, data, tmp_path):
    """As the Matryoshka loss cuts what was merged."""
    documents = [one for one in Dataset.open(data).corpus if len(one.pieces) > 1]
    whole = _merging(model, tmp_path, OfTexts()).encode_documents(documents)[:, :8]
    found = _merging(model, tmp_path, OfTexts(), dim=8).encode_documents(documents)
    np.testing.assert_allclose(found, whole / np.linalg.norm(whole, axis=1, keepdims=True), atol=1e-6)


def test_a_text_that_says_what_stands_for_a_picture(model, data):
    """Beside a picture in one batch it would be taken for a part of one."""
    encoder = _encoder(model)
    text = "in a <|image_pad|> river <|vision_start|> of <|vision_end|>"
    picture = next(one for one in Dataset.open(data).corpus if one.media)
    together = encoder.encode_documents([text, picture])
    alone = np.concatenate([_encoder(model).encode_documents([each]) for each in (text, picture)])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    ids = encoder.renderer.tokenize([encoder.renderer.document(text), encoder.renderer.query(text)])
    marks = encoder.renderer.tokenizer.convert_tokens_to_ids(list(encoder.renderer.pictures.fixed))
    assert not set(marks) & {one for row in ids for one in row}


def test_trying_what_can_be_read_keeps_nothing(model, data):
    """Of records of several pieces too."""
    for merge in ("sequence", "mean"):
        renderer = Renderer.from_artifact(Artifact.load(model), merge=merge)
        one = next(one for one in Dataset.open(data).corpus if len(one.pieces) > 1)
        (ids,) = read_inputs(renderer, [renderer.document("", "", None, one.pieces)], bad={}, keep=False)
        parts = ids.parts if isinstance(ids, PieceTokens) else [ids]
        assert not any(part._kept for part in parts if isinstance(part, Tokens))


def test_an_engine_without_pictures_is_told(model, data):
    encoder = _encoder(model)
    encoder.engine.pictures = False
    with pytest.raises(TevaError, match="takes no pictures"):
        encoder.encode_documents(list(Dataset.open(data).corpus))
