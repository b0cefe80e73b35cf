"""MIRACL: questions over Wikipedia in 18 languages, each over its own language's passages."""

from __future__ import annotations

from .declaration import Benchmark, Task

LANGUAGES = ("ar", "bn", "de", "en", "es", "fa", "fi", "fr", "hi", "id", "ja", "ko", "ru", "sw", "te", "th", "yo", "zh")

TASKS = tuple(
    Task(
        name=f"miracl-{language}", hub="mteb/MIRACLRetrieval", revision="9c09abc13478308c27598f350e31d8f06b9b5481",
        part=language, split="dev", measures=("nDCG@10", "R@100"), languages=(language,), license="cc-by-sa-4.0",
        mteb="MIRACLRetrieval", instruction="Given a question, retrieve Wikipedia passages that answer the question",
        note="German and Yoruba are the surprise languages: they have a development split and no training split."
        if language in ("de", "yo") else "",
    )
    for language in LANGUAGES
)  # fmt: skip

BENCHMARKS = (
    Benchmark(
        name="miracl", title="18 languages, development split", tasks=TASKS, measure="nDCG@10",
        citation="Zhang et al., MIRACL, TACL 2023, 11:1114-1131",
        source="the metadata of MTEB 2.26.24's MIRACLRetrieval; files as first published (topics.*, qrels.*, docs-*) "
        "are read as well, with --data",
    ),
)  # fmt: skip
