"""Claims of clips and recordings in training: one gradient by every way there is, and how fast they are decoded."""

from __future__ import annotations

from typing import Any

from . import Context, Result, claim
from .images import compared


@claim(
    "video_audio", name="media_gradients",
    target="of a batch of texts, pictures, clips with and without sound, recordings and several of them in one on a "
    "tiny random Qwen2.5-Omni, the whole gradient and that of both towers differ by at most 1e-5 (relative L2) from "
    "inputs encoded one by one without caching: plain and cached, in full, with one tower or both frozen and with "
    "LoRA, 1 process, and 2 under ddp, fsdp2 and ZeRO-3; after a run with LoRA, the vectors of the artifact, loaded "
    "and encoded, differ from the trained model's by at most 1e-5",
    peer="autograd over inputs encoded one by one, {torch}; {deepspeed}",
)  # fmt: skip
def media_gradients(context: Context) -> Result:
    """Cases of benchmarks/vision_gradients.py; the processes are real ones that talk over gloo."""
    from benchmarks import vision_gradients

    cases = vision_gradients.omni_cases(quick=context.quick)
    return compared(context, cases, vision_gradients.OMNI, "media", video_sound=True)


@claim(
    "video_audio", name="media_decoding",
    target="real clips (8 frames each) are decoded and cut into patches by a thread for each core of two at 1.6 times "
    "the speed of one; decoded in the background, a training step waits for its batch in at most 5 % of its time, the "
    "first step left out; recordings reported",
    peer="one thread, and decoding in the loop itself; torchcodec {torchcodec}, soundfile {soundfile}, {transformers}",
    needs=("data",),
)  # fmt: skip
def media_decoding(context: Context) -> Result:
    """Clips of realvideo and recordings of spokenwords-en; steps of a small random Qwen2.5-Omni on the clips."""
    from benchmarks import page_decoding

    count, steps = (16, 3) if context.quick else (35, 10)
    work = page_decoding.make_clips(context.work, context.data)
    limits = {"video_frames": 8, "video_rate": 2.0}
    figures: dict[str, Any] = {}
    for name, data in (("clips", work.large), ("recordings", work.pages)):
        speeds = {one: page_decoding.speed(work.model, data, count, one, limits) for one in (1, 2)}
        figures |= {f"{name} a second, {one} threads": speed for one, speed in speeds.items()}
        figures[f"gain, {name}"] = speeds[2] / speeds[1]
    shares = []
    for how in page_decoding.WAYS:
        took = page_decoding.steps(work, how, steps, limits)
        figures |= {f"seconds a step, {how}": took.step, f"share of it waiting, {how}": took.waiting / took.step}
        if how != page_decoding.IN_THE_LOOP:
            shares.append(took.waiting / took.step)
    passed = figures["gain, clips"] >= 1.6 and max(shares) <= 0.05
    return Result(figures, passed, f"{count} of each; steps of {page_decoding.BATCH} queries with a clip each")
