"""Clips and recordings as they are found: of any rate, length and form; what is broken is told with its address."""

from __future__ import annotations

import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from teva_data.errors import MediaError
from teva_data.limits import MediaLimits
from teva_data.modalities import audio, video
from teva_data.pieces import Media
from teva_data.sounds import MelReader, tokens_of

RATE = 16000
pytestmark = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="makes its clips with ffmpeg")


def ffmpeg(*words: object) -> None:
    subprocess.run(["ffmpeg", "-v", "error", "-y", *map(str, words)], check=True, capture_output=True)


def picture(seconds: float, rate: object = 8, size: str = "64x48") -> list[object]:
    return ["-f", "lavfi", "-i", f"testsrc=size={size}:rate={rate}:duration={seconds}"]


def tone(seconds: float) -> list[object]:
    return ["-f", "lavfi", "-i", f"sine=frequency=440:sample_rate=44100:duration={seconds}"]


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Clips by what is special about them."""
    root = tmp_path_factory.mktemp("clips")
    ffmpeg(*picture(3), *tone(3), "-c:v", "libx264", "-c:a", "aac", "-movflags", "faststart", root / "whole.mp4")
    ffmpeg(*tone(3), "-c:a", "aac", root / "no-video-stream.mp4")
    ffmpeg("-i", root / "whole.mp4", "-c", "copy", root / "head-last.mp4")
    ffmpeg("-i", root / "whole.mp4", "-c:v", "libvpx", "-c:a", "libvorbis", root / "other.webm")
    ffmpeg(*picture(2, 10), "-vf", "select=0", "-an", root / "no-frames.mp4")
    # Ten frames in the first second, one at four seconds, that stays for a while.
    ffmpeg(
        *picture(8, 10), "-vf", "select='lt(n,10)+eq(n,40)+eq(n,79)'", "-fps_mode", "vfr", "-an", root / "variable.mp4"
    )
    ffmpeg(*picture(4 * 3600, "1/60"), "-c:v", "libx264", "-preset", "ultrafast", root / "four-hours.mp4")
    for name, of in (("cut.mp4", "whole.mp4"), ("cut-without-head.mp4", "head-last.mp4")):
        data = (root / of).read_bytes()
        (root / name).write_bytes(data[: len(data) // 2])
    (root / "empty.mp4").write_bytes(b"")
    return {path.stem: Media("video", str(path)) for path in root.iterdir()}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("cut", "cannot be decoded"), ("cut-without-head", "cannot be decoded: .*[Ii]nvalid data"),
        ("no-video-stream", "no video stream. Is it a recording"), ("no-frames", "cannot be decoded"),
        ("empty", "not whole"),
    ],
)  # fmt: skip
def test_broken_clips_are_told_with_their_address(clips, name, words):
    media = clips[name]
    with pytest.raises(MediaError, match=rf"{name}\.mp4: the video.*({words})"):
        video.decode(media, frames=8)


def test_frames_are_taken_by_time_whatever_the_frame_rate(clips):
    head = video.head(clips["variable"])
    assert head.frames == 12
    found = video.decode(clips["variable"], frames=8)
    # By number, most of them would be of the first second; one frame stays for half of the time.
    assert (found.seconds < 0.95).sum() <= 2
    assert (np.abs(found.seconds - 4) < 0.11).sum() >= 3
    assert video.head(clips["other"]).seconds == pytest.approx(3, abs=0.1)


@pytest.mark.parametrize("whole", [video._WHOLE, 0])
def test_a_few_frames_of_four_hours_in_the_memory_of_a_few(clips, whole, monkeypatch):
    monkeypatch.setattr(video, "_WHOLE", whole)  # as if the file were larger than is gone through
    head = video.head(clips["four-hours"])
    assert head.seconds == pytest.approx(4 * 3600, rel=0.01)
    limits = MediaLimits(video_frames=24)
    times = limits.times(head.seconds, 2)
    assert len(times) == 24
    np.testing.assert_allclose(np.diff(times), head.seconds / 24)
    found = [frame.shape for frame in video.frames(clips["four-hours"], times.tolist())]
    assert found == [(48, 64, 3)] * 24


def test_a_long_recording_is_not_read_whole(tmp_path):
    """Two hours of stereo at 48 kHz are 2.8 GB of samples; the file is sparse."""
    path, frames = tmp_path / "long.wav", 2 * 3600 * 48000
    soundfile.write(path, np.full((48000, 2), 0.25), 48000, subtype="PCM_16")
    head = bytearray(path.read_bytes()[:44])
    size = frames * 4
    head[4:8], head[40:44] = (size + 36).to_bytes(4, "little"), size.to_bytes(4, "little")
    with path.open("r+b") as file:
        file.write(head)
        file.truncate(44 + size)
    media = Media("audio", str(path))
    assert audio.duration(media) == 7200
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = audio.decode(media, seconds=10, rate=RATE)
    assert len(found.samples) == 10 * RATE
    np.testing.assert_allclose(found.samples[1000:15000], 0.25, atol=1e-3)
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < 100e6
    with pytest.raises(MediaError, match=r"7200 seconds\. At most 3600 s"):
        audio.decode(media)


@pytest.mark.parametrize("rate", [8000, 16000, 44100])
@pytest.mark.parametrize(("channels", "subtype"), [(1, "PCM_16"), (2, "PCM_24"), (1, "FLOAT")])
def test_recordings_come_at_the_models_rate(tmp_path, rate, channels, subtype):
    wave = 0.5 * np.sin(2 * np.pi * 440 * np.arange(rate) / rate)
    sound = np.stack([wave, -0.5 * wave][:channels], axis=1)
    soundfile.write(tmp_path / "x.wav", sound, rate, subtype=subtype)
    found = audio.decode(Media("audio", str(tmp_path / "x.wav")), rate=RATE)
    assert found.rate == RATE
    assert len(found.samples) == pytest.approx(RATE, abs=1)
    expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE) * (0.25 if channels == 2 else 1)
    np.testing.assert_allclose(found.samples[500:15500], expected[500:15500], atol=2e-3)


def test_a_clips_sound_and_what_libsndfile_does_not_read(clips, tmp_path):
    found = audio.decode(clips["whole"], seconds=2, rate=RATE)
    assert len(found.samples) == 2 * RATE
    loudest = np.abs(np.fft.rfft(found.samples)).argmax() / 2
    assert loudest == pytest.approx(440, abs=2)
    ffmpeg(*tone(1), "-c:a", "aac", tmp_path / "x.m4a")
    spoken = audio.decode(Media("audio", str(tmp_path / "x.m4a")), rate=RATE)
    assert len(spoken.samples) == pytest.approx(RATE, rel=0.05)
    assert video.has_sound(clips["whole"])
    assert not video.has_sound(clips["variable"])
    with pytest.raises(MediaError, match="cannot be decoded"):
        audio.decode(clips["variable"])


@pytest.fixture(scope="module")
def late(tmp_path_factory):
    """Clips of four seconds whose sound begins after two, or that begin late by their file's clock."""
    root = tmp_path_factory.mktemp("late")
    sound = ["-itsoffset", 2, *tone(2)]
    ffmpeg(*picture(4), *sound, "-c:v", "libx264", "-c:a", "aac", root / "late.mp4")
    ffmpeg("-i", root / "late.mp4", "-c", "copy", root / "late.mkv")
    ffmpeg("-i", root / "late.mp4", "-c", "copy", root / "late.ts")
    ffmpeg(*picture(4), *tone(4), "-c:v", "libx264", "-c:a", "aac", root / "stream.ts")
    ffmpeg(*picture(4), *tone(2), "-c:v", "libvpx", "-c:a", "libvorbis", root / "ends-early.webm")
    (root / "cut.webm").write_bytes((root / "ends-early.webm").read_bytes()[:9000])
    ffmpeg(*sound, "-c:a", "aac", root / "late.mka")
    return root


@pytest.mark.parametrize(
    ("name", "loud"),
    [
        ("late.mp4", (2, 4)), ("late.mkv", (2, 4)), ("late.ts", (2, 4)), ("stream.ts", (0, 4)),
        ("ends-early.webm", (0, 2)),
    ],
)  # fmt: skip
def test_a_clips_sound_is_heard_when_its_frames_are_shown(late, name, loud):
    media = Media("video", str(late / name))
    assert audio.duration(media) == pytest.approx(4, abs=0.3)  # the head of a transport stream is not exact
    found = audio.decode(media, seconds=30, rate=RATE).samples
    heard = np.flatnonzero(np.abs(found) > 0.02) / RATE
    assert heard[0] == pytest.approx(loud[0], abs=0.06)
    assert heard[-1] == pytest.approx(loud[1], abs=0.3)
    np.testing.assert_array_equal(audio.decode(media, seconds=1, rate=RATE).samples, found[:RATE])
    np.testing.assert_array_equal(audio.decode(media, rate=RATE).samples, found)


def test_a_late_recording_is_heard_from_its_beginning_and_a_cut_clip_is_told(late):
    found = audio.decode(Media("audio", str(late / "late.mka")), rate=RATE).samples
    assert len(found) == pytest.approx(2 * RATE, rel=0.05)
    assert np.flatnonzero(np.abs(found) > 0.02)[0] < 0.06 * RATE
    with pytest.raises(MediaError, match=r"cut\.webm: the video .* samples, where its head says"):
        audio.decode(Media("video", str(late / "cut.webm")))


def test_only_a_clip_without_a_sound_track_has_no_sound(clips):
    assert not video.has_sound(clips["no-frames"])
    for name in ("cut-without-head", "empty"):
        with pytest.raises(MediaError, match=rf"{name}\.mp4: the video.*(cannot be decoded|not whole)"):
            video.has_sound(clips[name])


@pytest.mark.parametrize("form", ["FLAC", "OGG", "MP3", "WAV"])
def test_recordings_cut_short_are_told_or_end_where_they_end(tmp_path, form):
    path = tmp_path / f"cut.{form.lower()}"
    soundfile.write(path, np.random.default_rng(0).normal(0, 0.1, 2 * RATE), RATE, format=form)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    try:
        found = audio.decode(Media("audio", str(path)), rate=RATE)
    except MediaError as error:
        assert str(path) in str(error)  # noqa: PT017
    else:
        assert len(found.samples) < 1.2 * RATE  # its head does not say how long it was
    path.write_bytes(whole[:20])
    with pytest.raises(MediaError, match=f"cut.{form.lower()}: the audio"):
        audio.decode(Media("audio", str(path)), rate=RATE)


def _crc(page: bytes) -> int:
    """Ogg's checksum of a page whose own is 0."""
    found = 0
    for byte in page:
        found ^= byte << 24
        for _ in range(8):
            found = (found << 1 ^ (0x04C11DB7 if found >> 31 else 0)) & 0xFFFFFFFF
    return found


def test_a_short_recording_whose_first_packets_were_cut_away_is_heard(tmp_path):
    """As ``wapiti.en.opus`` of Tux Paint: one page, whose clock counts two packets more than there are."""
    path = tmp_path / "spoken.opus"
    soundfile.write(
        path, np.random.default_rng(0).normal(0, 0.1, round(0.6 * RATE)), RATE, format="OGG", subtype="OPUS"
    )
    whole = path.read_bytes()
    start = whole.rindex(b"OggS")
    length = audio.duration(Media("audio", str(path)))
    for packets in (2, 10):
        page = bytearray(whole[start:])
        page[6:14] = (int.from_bytes(page[6:14], "little") + packets * 960).to_bytes(8, "little")
        page[22:26] = bytes(4)
        page[22:26] = _crc(page).to_bytes(4, "little")
        path.write_bytes(whole[:start] + page)
        if packets == 2:
            found = audio.decode(Media("audio", str(path)), rate=RATE)
            assert abs(found.seconds - length) < 0.05
        else:
            with pytest.raises(MediaError, match=r"spoken\.opus.*samples, where its head says"):
                audio.decode(Media("audio", str(path)), rate=RATE)


def _reader(**settings: object) -> MelReader:
    from transformers import WhisperFeatureExtractor

    return MelReader(WhisperFeatureExtractor(feature_size=16, **settings), 30.0)


def test_silence_and_the_shortest_of_sounds_are_sounds(tmp_path):
    reader = _reader()
    for name, samples in (("silent", np.zeros(RATE)), ("short", np.full(3, 0.1)), ("long", np.zeros(40 * RATE))):
        soundfile.write(tmp_path / f"{name}.wav", samples, RATE)
        media = Media("audio", str(tmp_path / f"{name}.wav"))
        found = reader.read(media)
        assert np.isfinite(found.features).all()
        assert found.tokens == tokens_of(found.features.shape[1]) == reader.tokens(audio.duration(media)) >= 1
    assert found.features.shape[1] == 3000  # 30 seconds of 40
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), RATE)
    with pytest.raises(MediaError, match=r"empty\.wav: the audio cannot be decoded: no samples"):
        reader.read(Media("audio", str(tmp_path / "empty.wav")))
    soundfile.write(tmp_path / "nan.wav", np.array([0.1, np.nan, 0.1] * 1000), RATE, subtype="FLOAT")
    with pytest.raises(MediaError, match=r"nan\.wav.*finite"):
        reader.read(Media("audio", str(tmp_path / "nan.wav")))


def test_a_part_of_an_archive_is_read_as_a_file(clips, tmp_path):
    data = Path(clips["whole"].path).read_bytes()
    (tmp_path / "archive").write_bytes(b"before" + data + b"behind")
    media = Media("video", str(tmp_path / "archive"), 6, len(data))
    assert media.read() == data
    assert video.head(media) == video.head(clips["whole"])
    with media.open() as file:
        assert file.seek(-4, 2) == len(data) - 4
        assert file.read() == data[-4:]
        assert file.seek(2) == 2
        assert file.read(3) == data[2:5]


def test_decoders_are_asked_for_only_when_they_are_needed():
    done = subprocess.run(
        [sys.executable, "-c", "import sys, teva_data.omni, teva_data.tower_reader, teva_data.limits;"
         "print([one for one in ('torch', 'torchcodec', 'soundfile', 'transformers', 'soxr') if one in sys.modules])"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == "[]"
