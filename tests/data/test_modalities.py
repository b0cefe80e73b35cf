"""Pictures and recordings of real encoders come back as arrays; what cannot be decoded is told with its place."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
import soundfile
from PIL import Image

from teva_data.errors import DataError, MediaError
from teva_data.modalities import audio, decode, image
from teva_data.pieces import Media


def encoded(picture: Image.Image, form: str, **options) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()


def stored(tmp_path, data: bytes, kind: str = "image") -> Media:
    """The bytes in the middle of a file."""
    path = tmp_path / "archive"
    path.write_bytes(b"before" + data + b"after")
    return Media(kind, str(path), 6, len(data))


PIXELS = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF", "WEBP"])
def test_lossless_pictures_come_back(tmp_path, form):
    options = {"lossless": True} if form == "WEBP" else {}
    picture = decode(stored(tmp_path, encoded(Image.fromarray(PIXELS), form, **options)))
    assert picture.mode == "RGB"
    assert np.array_equal(np.asarray(picture), PIXELS)


def test_grey_transparent_and_turned_pictures(tmp_path):
    grey = np.asarray(decode(stored(tmp_path, encoded(Image.fromarray(PIXELS[:, :, 0]), "PNG"))))
    assert np.array_equal(grey, np.repeat(PIXELS[:, :, :1], 3, axis=2))
    clear = np.dstack([PIXELS, np.where(PIXELS[:, :, 0] > 127, 255, 0).astype(np.uint8)])
    seen = np.asarray(decode(stored(tmp_path, encoded(Image.fromarray(clear, "RGBA"), "PNG"))))
    assert np.array_equal(seen[clear[:, :, 3] == 255], PIXELS[clear[:, :, 3] == 255])
    assert (seen[clear[:, :, 3] == 0] == 255).all()
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: shown a quarter turn clockwise
    turned = np.asarray(decode(stored(tmp_path, encoded(Image.fromarray(PIXELS), "PNG", exif=exif))))
    assert np.array_equal(turned, np.rot90(PIXELS, -1))


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_the_header_tells_the_size_that_the_picture_has(tmp_path, form, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    media = stored(tmp_path, encoded(Image.fromarray(PIXELS), form, exif=exif))
    assert image.upright_size(media) == decode(media).size == ((20, 30) if orientation == 6 else (30, 20))


def pgm(grey) -> bytes:
    return f"P5 {grey.shape[1]} {grey.shape[0]} 65535\n".encode() + grey.astype(">u2").tobytes()


RAMP = np.arange(0, 65536, 257, dtype=np.uint16).reshape(16, 16)  # 0 to 255 in 16 bits
BYTES = np.arange(256, dtype=np.uint8).reshape(16, 16)


@pytest.mark.parametrize(
    "data",
    [
        encoded(Image.fromarray(RAMP), "PNG"),
        encoded(Image.fromarray(RAMP), "TIFF"),
        encoded(Image.fromarray(RAMP.astype(np.int32)), "TIFF"),
        encoded(Image.fromarray(BYTES.astype(np.int32)), "TIFF"),
        encoded(Image.fromarray((BYTES / 255).astype(np.float32)), "TIFF"),
        encoded(Image.fromarray(BYTES.astype(np.float32)), "TIFF"),
        pgm(RAMP),
    ],
)
def test_grey_of_more_than_8_bits_keeps_its_shades(tmp_path, data):
    found = np.asarray(decode(stored(tmp_path, data)))
    assert np.array_equal(found, np.repeat(BYTES[:, :, None], 3, axis=2))


def test_dark_and_transparent_grey_of_16_bits(tmp_path):
    dark = np.asarray(decode(stored(tmp_path, pgm(RAMP % 200))))
    assert dark.max() == 1  # 199 of 65535, and not of 255
    clear = np.asarray(decode(stored(tmp_path, encoded(Image.fromarray(RAMP), "PNG", transparency=257))))
    assert clear[0, :3, 0].tolist() == [0, 255, 2]


@pytest.mark.parametrize("value", [300.0, -0.5, float("nan")])
def test_grey_of_an_unknown_range_is_refused(tmp_path, value):
    grey = np.full((4, 4), 0.5, np.float32)
    grey[0, 0] = value
    with pytest.raises(MediaError, match=r"archive: the image at byte 6 .*\(mode F\)\. Grey is read from 0 to 255"):
        decode(stored(tmp_path, encoded(Image.fromarray(grey), "TIFF")))


def test_a_picture_that_would_fill_the_memory_is_refused_before_it_is_decoded(tmp_path):
    data = encoded(Image.fromarray(PIXELS), "PNG")
    header = struct.pack(">II", 60_000, 60_000) + data[24:29]
    bomb = data[:16] + header + struct.pack(">I", zlib.crc32(b"IHDR" + header)) + data[33:]
    with pytest.raises(DataError, match=r"archive: the image at byte 6 cannot be decoded"):
        decode(stored(tmp_path, bomb))
    with pytest.raises(DataError, match=r"30 x 20 pixels\. At most 599 pixels"):
        image.decode(stored(tmp_path, data), max_pixels=599)
    assert image.decode(stored(tmp_path, data), max_pixels=600).size == (30, 20)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "GIF", "AVIF"])
def test_damaged_pictures_are_told(tmp_path, form):
    whole = encoded(Image.fromarray(PIXELS), form)
    with pytest.raises(DataError, match=r"archive: the image at byte 6 cannot be decoded"):
        decode(stored(tmp_path, whole[: len(whole) // 3]))
    with pytest.raises(DataError, match="cannot be decoded"):
        decode(stored(tmp_path, b"no picture at all"))
    rng = np.random.default_rng(1)
    for _ in range(60):  # a flipped byte may give another picture, never another error
        damaged = bytearray(whole)
        damaged[rng.integers(len(whole))] ^= 1 << rng.integers(8)
        try:
            assert decode(stored(tmp_path, bytes(damaged))).mode == "RGB"
        except MediaError as error:
            assert "archive: the image at byte 6" in str(error)  # noqa: PT017


SOUND = (np.sin(np.arange(8000) * 0.05) * 0.5).astype(np.float32)


def sound(samples, form: str, **options) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, 16000, format=form, **options)
    return buffer.getvalue()


def test_recordings_come_back_as_one_channel(tmp_path):
    found = decode(stored(tmp_path, sound(SOUND, "FLAC", subtype="PCM_24"), "audio"))
    assert (found.rate, found.seconds, found.samples.dtype) == (16000, 0.5, np.float32)
    np.testing.assert_allclose(found.samples, SOUND, atol=2**-22)
    both = decode(stored(tmp_path, sound(np.stack([SOUND, SOUND * 0.5], 1), "WAV", subtype="FLOAT"), "audio"))
    np.testing.assert_allclose(both.samples, SOUND * 0.75, atol=1e-6)
    lossy = decode(stored(tmp_path, sound(SOUND, "OGG", subtype="VORBIS"), "audio"))
    assert len(lossy.samples) == 8000
    assert np.corrcoef(lossy.samples, SOUND)[0, 1] > 0.99


@pytest.mark.parametrize("data", [b"no sound", sound(SOUND, "FLAC")[:50], sound(SOUND[:0], "WAV")])
def test_recordings_that_cannot_be_decoded_are_told(tmp_path, data):
    with pytest.raises(DataError, match=r"archive: the audio at byte 6 cannot be decoded"):
        decode(stored(tmp_path, data, "audio"))


def test_a_recording_that_is_too_long_is_refused(tmp_path):
    media = stored(tmp_path, sound(SOUND, "WAV"), "audio")
    with pytest.raises(DataError, match="At most 0 s are decoded"):
        audio.decode(media, max_seconds=0.4)


def test_unknown_kind_is_refused():
    with pytest.raises(DataError, match="unknown kind of media; found 'smell'; expected image, video, audio"):
        decode(Media("smell", "x"))
