"""Video, audio and screenshots: MSR-VTT (1k-A), AudioCaps, Wiki-SS. Converted as teva_data.datasets declares them."""

from __future__ import annotations

import dataclasses

from .declaration import Benchmark, Task

_CLIPS = ("R@1", "R@5", "R@10")
# A recording has several captions: that one of them is among the first is what is published as R@k there.
_CAPTIONS = ("Success@1", "Success@5", "Success@10")

MSRVTT = Task(
    name="msrvtt-1k-a", hub="Tevatron/msrvtt", dataset="msrvtt", layout="tevatron-v2", measures=_CLIPS,
    documents=("video",), instruction="Find the video that the caption tells of",
    note="The 1k-A split: 1,000 clips, one caption each. The repository's test split is taken for it; that was not "
    "seen. Captions and clips as first published are read by --data (layout `captions`).",
)  # fmt: skip
AUDIOCAPS = Task(
    name="audiocaps", hub="Tevatron/audiocaps", dataset="audiocaps", layout="tevatron-v2", measures=_CLIPS,
    documents=("audio",), instruction="Find the recording that the caption tells of",
    note="Several captions tell of one recording; each is a query of its own.",
)  # fmt: skip
MSRVTT_TURNED = dataclasses.replace(
    MSRVTT, name="msrvtt-1k-a-to-text", measures=_CAPTIONS, documents=("text",), turned=True,
    instruction="Find the caption that tells of the video",
)  # fmt: skip
AUDIOCAPS_TURNED = dataclasses.replace(
    AUDIOCAPS, name="audiocaps-to-text", measures=_CAPTIONS, documents=("text",), turned=True,
    instruction="Find a caption that tells of the recording", note="One of a recording's captions among the first.",
)  # fmt: skip
WIKI_SS = Task(
    name="wiki-ss-nq", hub="Tevatron/wiki-ss-nq-new", dataset="wiki-ss", layout="tevatron-v2",
    measures=("Success@1", "Success@5", "Success@20", "Success@100"), documents=("image",), answers=True,
    instruction="Find the screenshot of a page that answers the question",
    note="Top-k accuracy: a page counts where its text holds an answer (DPR's rule), so pages need a text beside the "
    "picture; --data reads answers from the questions' rows (`answers`).",
)  # fmt: skip

BENCHMARKS = (
    Benchmark(name="msrvtt", title="captions to clips, 1k-A", tasks=(MSRVTT,), measure="R@1",
              citation="Xu et al., MSR-VTT, CVPR 2016; split: Yu et al., ECCV 2018", source="teva_data.datasets"),
    Benchmark(name="audiocaps", title="captions to recordings", tasks=(AUDIOCAPS,), measure="R@1",
              citation="Kim et al., AudioCaps, NAACL 2019", source="teva_data.datasets"),
    Benchmark(name="msrvtt-to-text", title="clips to captions, 1k-A", tasks=(MSRVTT_TURNED,), measure="Success@1",
              citation="Xu et al., MSR-VTT, CVPR 2016; split: Yu et al., ECCV 2018", source="teva_data.datasets"),
    Benchmark(name="audiocaps-to-text", title="recordings to captions", tasks=(AUDIOCAPS_TURNED,), measure="Success@1",
              citation="Kim et al., AudioCaps, NAACL 2019", source="teva_data.datasets"),
    Benchmark(name="wiki-ss", title="questions to screenshots, by answers", tasks=(WIKI_SS,), measure="Success@20",
              citation="Ma et al., Unifying Multimodal Retrieval via Document Screenshot Embedding, arXiv:2406.11251",
              source="teva_data.datasets"),
)  # fmt: skip
