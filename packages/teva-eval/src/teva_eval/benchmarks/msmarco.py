"""MS MARCO passages: the development queries, and the graded ones of TREC's deep learning tracks 2019 and 2020."""

from __future__ import annotations

from .declaration import Benchmark, Task

_ASKED = "Given a web search query, retrieve relevant passages that answer the query"
# Grade 1 ("related") is not relevant in these tracks, but is a gain: Craswell et al. 2020, section 4.
_GRADED = ("nDCG@10", "AP(rel=2)", "RR(rel=2)@10", "R(rel=2)@1000")

DEV = Task(
    name="msmarco-dev", hub="mteb/msmarco", revision="c5a29a104738b98a9e76336939199e264163d4a0", split="dev",
    measures=("RR@10", "nDCG@10", "R@100", "R@1000"), mteb="MSMARCO", license="msr-la-nc", instruction=_ASKED,
    note="6,980 queries; the passages have no titles (others' title-augmented versions give higher numbers).",
)  # fmt: skip
DL19 = Task(
    name="dl19", hub="whybe-choi/trec-dl-2019", revision="cbb055c2528c544edf84db8ec6aef1885ec8cfda",
    measures=_GRADED, mteb="TRECDL2019", license="msr-la-nc", instruction=_ASKED, note="43 judged queries.",
)  # fmt: skip
DL20 = Task(
    name="dl20", hub="whybe-choi/trec-dl-2020", revision="83d7d3532f3fa653f132da188bbaa852d959d6f9",
    measures=_GRADED, mteb="TRECDL2020", license="msr-la-nc", instruction=_ASKED, note="54 judged queries.",
)  # fmt: skip

BENCHMARKS = (
    Benchmark(
        name="msmarco", title="passages: dev (RR@10) and TREC DL 19, 20 (nDCG@10)", tasks=(DEV, DL19, DL20),
        measure="nDCG@10", citation="Bajaj et al., MS MARCO, arXiv:1611.09268; Craswell et al., TREC 2019 Deep "
        "Learning Track, arXiv:2003.07820", source="the metadata of MTEB 2.26.24's tasks; measures as the tracks' "
        "overviews report them",
    ),
)  # fmt: skip
