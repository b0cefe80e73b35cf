"""BEIR: 13 public English collections, and CQADupStack, whose twelve forums count as one."""

from __future__ import annotations

from .declaration import Benchmark, SelfHits, Task

SOURCE = "the metadata of MTEB 2.26.24's tasks (repositories, commits, splits, instructions, licences, self-hits)"
CITATION = "Thakur et al., BEIR: A Heterogeneous Benchmark for Zero-shot Evaluation, NeurIPS Datasets 2021"


def _task(
    name: str, hub: str, revision: str, mteb: str, license: str, instruction: str, self_hits: SelfHits = "keep"
) -> Task:
    return Task(
        name=name, hub=f"mteb/{hub}", revision=revision, mteb=mteb, license=license, instruction=instruction,
        self_hits=self_hits, note=_NOTES.get(name, ""),
    )  # fmt: skip


_NOTES = {
    "trec-covid": "The judgements have grades 0 to 2; nDCG@10 takes them as they are.",
    "touche-2020": "BEIR's own version; a cleaned one is called v3 by MTEB and gives other numbers.",
    "nq": "The queries are those of BEIR's test split, not of the open-domain question sets.",
}

TASKS = (
    _task("trec-covid", "trec-covid", "bb9466bac8153a0349341eb1b22e06409e78ef4e", "TRECCOVID", "unknown",
          "Given a query on COVID-19, retrieve documents that answer the query"),
    _task("nfcorpus", "nfcorpus", "ec0fa4fe99da2ff19ca1214b7966684033a58814", "NFCorpus", "unknown",
          "Given a question, retrieve relevant documents that best answer the question"),
    _task("nq", "nq", "b774495ed302d8c44a3a7ea25c90dbce03968f31", "NQ", "cc-by-nc-sa-3.0",
          "Given a question, retrieve Wikipedia passages that answer the question"),
    _task("hotpotqa", "hotpotqa", "ab518f4d6fcca38d87c25209f94beba119d02014", "HotpotQA", "cc-by-sa-4.0",
          "Given a multi-hop question, retrieve documents that can help answer the question"),
    _task("fiqa", "fiqa", "27a168819829fe9bcd655c2df245fb19452e8e06", "FiQA2018", "unknown",
          "Given a financial question, retrieve user replies that best answer the question", "drop"),
    _task("arguana", "arguana", "c22ab2a51041ffd869aaddef7af8d8215647e41a", "ArguAna", "cc-by-sa-4.0",
          "Given a claim, find documents that refute the claim", "drop"),
    _task("touche-2020", "touche2020", "a34f9a33db75fa0cbb21bb5cfc3dae8dc8bec93f", "Touche2020", "cc-by-sa-4.0",
          "Given a question, retrieve detailed and persuasive arguments that answer the question"),
    _task("dbpedia", "dbpedia", "c0f706b76e590d620bd6618b3ca8efdd34e2d659", "DBPedia", "mit",
          "Given a query, retrieve relevant entity descriptions from DBPedia"),
    _task("scidocs", "scidocs", "f8c2fcf00f625baaa80f62ec5bd9e1fff3b8ae88", "SCIDOCS", "cc-by-sa-4.0",
          "Given a scientific paper title, retrieve paper abstracts that are cited by the given paper"),
    _task("fever", "fever", "bea83ef9e8fb933d90a2f1d5515737465d613e12", "FEVER", "cc-by-nc-sa-3.0",
          "Given a claim, retrieve documents that support or refute the claim", "drop"),
    _task("climate-fever", "climate-fever", "47f2ac6acb640fc46020b02a5b59fdda04d39380", "ClimateFEVER", "cc-by-sa-4.0",
          "Given a claim about climate change, retrieve documents that support or refute the claim"),
    _task("scifact", "scifact", "d56462d0e63a25450459c4f213e49ffdb866f7f9", "SciFact", "cc-by-nc-4.0",
          "Given a scientific claim, retrieve documents that support or refute the claim"),
    _task("quora", "quora", "e4e08e0b7dbe3c8700f0daef558ff32256715259", "QuoraRetrieval", "unknown",
          "Given a question, retrieve questions that are semantically equivalent to the given question", "drop"),
)  # fmt: skip

_FORUMS = {
    "android": ("CQADupstackAndroidRetrieval", "9be4c0e46342e8e3aff577a89b9a1ec9bc6b4af3"),
    "english": ("cqadupstack-english", "ad9991cb51e31e31e430383c75ffb2885547b5f0"),
    "gaming": ("cqadupstack-gaming", "4885aa143210c98657558c04aaf3dc47cfb54340"),
    "gis": ("cqadupstack-gis", "5003b3064772da1887988e05400cf3806fe491f2"),
    "mathematica": ("cqadupstack-mathematica", "90fceea13679c63fe563ded68f3b6f06e50061de"),
    "physics": ("cqadupstack-physics", "79531abbd1fb92d06c6d6315a0cbbbf5bb247ea4"),
    "programmers": ("cqadupstack-programmers", "6184bc1440d2dbc7612be22b50686b8826d22b32"),
    "stats": ("cqadupstack-stats", "65ac3a16b8e91f9cee4c9828cc7c335575432a2a"),
    "tex": ("cqadupstack-tex", "46989137a86843e03a6195de44b09deda022eec7"),
    "unix": ("cqadupstack-unix", "6c6430d3a6d36f8d2a829195bc5dc94d7e063e53"),
    "webmasters": ("cqadupstack-webmasters", "160c094312a0e1facb97e55eeddb698c0abe3571"),
    "wordpress": ("cqadupstack-wordpress", "4ffe81d471b1924886b33c7567bfb200e9eec5c4"),
}

CQADUPSTACK = tuple(
    Task(
        name=f"cqadupstack-{forum}", hub=f"mteb/{hub}", revision=revision, license="apache-2.0", group="cqadupstack",
        mteb=f"CQADupstack{forum.capitalize()}Retrieval",
    )
    for forum, (hub, revision) in _FORUMS.items()
)  # fmt: skip

BENCHMARKS = (
    Benchmark(name="beir", title="13 public English collections, zero-shot", tasks=TASKS, measure="nDCG@10",
              citation=CITATION, source=SOURCE),
    Benchmark(name="beir-cqadupstack", title="BEIR's 13 public collections and CQADupStack, which counts as one",
              tasks=TASKS + CQADUPSTACK, measure="nDCG@10", citation=CITATION, source=SOURCE),
    Benchmark(name="cqadupstack", title="duplicate questions of twelve StackExchange forums", tasks=CQADUPSTACK,
              measure="nDCG@10", citation="Hoogeveen et al., CQADupStack, ADCS 2015", source=SOURCE),
)  # fmt: skip
