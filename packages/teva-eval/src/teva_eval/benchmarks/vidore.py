"""ViDoRe: pages, as pictures, to be found by questions. Version 1 counts nDCG@5, 2 the same, 3 nDCG@10."""

from __future__ import annotations

from .declaration import Benchmark, Task

SOURCE = "the metadata of MTEB 2.26.24's tasks (repositories, commits, splits, instructions, licences)"
_ASKED = "Find a screenshot that is relevant to the user's question."

_V1 = {
    "arxivqa": ("VidoreArxivQARetrieval", "arxivqa_test_subsampled_beir", "179762404662be6bf48c30b4fb2b2ef8c6891290"),
    "docvqa": ("VidoreDocVQARetrieval", "docvqa_test_subsampled_beir", "e78cd130055fcb8d69bb0ff4115c4712a157f3d3"),
    "infovqa": ("VidoreInfoVQARetrieval", "infovqa_test_subsampled_beir", "74d396242cc281c021eeb38d0ee5f6f30afc1fad"),
    "tabfquad": (
        "VidoreTabfquadRetrieval", "tabfquad_test_subsampled_beir", "24a4541c4c461f5ff4f4af4e97ec820715281a06",
    ),
    "tatdqa": ("VidoreTatdqaRetrieval", "tatdqa_test_beir", "dc7924ec102addd7f85c1ccfdd8625848179f615"),
    "shiftproject": ("VidoreShiftProjectRetrieval", "shiftproject_test_beir",
                     "78e6f5ad3bbc1af50ae9c0f006f57462213269fb"),
    "synthetic-ai": ("VidoreSyntheticDocQAAIRetrieval", "syntheticDocQA_artificial_intelligence_test_beir",
                     "12c5b7a81fc19d66f1844642acdb88e8ad79af16"),
    "synthetic-energy": ("VidoreSyntheticDocQAEnergyRetrieval", "syntheticDocQA_energy_test_beir",
                         "eda52c9a0519252cfaacb7ae5e5da516b7d4b8cb"),
    "synthetic-government": ("VidoreSyntheticDocQAGovernmentReportsRetrieval",
                             "syntheticDocQA_government_reports_test_beir", "ec534abea699035a18f9fd76f215277de9db9600"),
    "synthetic-healthcare": ("VidoreSyntheticDocQAHealthcareIndustryRetrieval",
                             "syntheticDocQA_healthcare_industry_test_beir",
                             "81d53880628d641aaf7365f3b2e65f57c814ecca"),
}  # fmt: skip

V1 = tuple(
    Task(
        name=f"vidore-{name}", hub=f"mteb/{hub}", revision=revision, layout="vidore", mteb=mteb, license="mit",
        measures=("nDCG@5", "nDCG@10", "R@5"), documents=("image",), instruction=_ASKED,
        languages=("fr",) if name in ("tabfquad", "shiftproject") else ("en",),
    )
    for name, (mteb, hub, revision) in _V1.items()
)  # fmt: skip

_V2 = {
    "esg-reports": ("Vidore2ESGReportsRetrieval", "esg_reports_v2", "0542c0d03da0ec1c8cbc517c8d78e7e95c75d3d3"),
    "economics-reports": (
        "Vidore2EconomicsReportsRetrieval", "economics_reports_v2", "b3e3a04b07fbbaffe79be49dabf92f691fbca252",
    ),
    "biomedical-lectures": (
        "Vidore2BioMedicalLecturesRetrieval", "biomedical_lectures_v2", "a29202f0da409034d651614d87cd8938d254e2ea",
    ),
    "esg-reports-human": (
        "Vidore2ESGReportsHLRetrieval", "esg_reports_human_labeled_v2", "6d467dedb09a75144ede1421747e47cf036857dd",
    ),
}  # fmt: skip
_CODES = {"english": "en", "french": "fr", "german": "de", "spanish": "es", "italian": "it", "portuguese": "pt"}


def _v2(name: str) -> list[Task]:
    mteb, hub, revision = _V2[name]
    # Pages judged by people have English questions alone; the others' questions stand in four languages.
    parts: list[str | None] = [None] if name == "esg-reports-human" else ["english", "french", "german", "spanish"]
    return [
        Task(
            name=f"vidore2-{name}" + (f"-{_CODES[part]}" if part else ""), hub=f"vidore/{hub}", revision=revision,
            layout="vidore", part=part, group=f"vidore2-{name}", mteb=mteb, license="mit",
            measures=("nDCG@5", "nDCG@10", "R@5"), documents=("image",), instruction=_ASKED,
            languages=(_CODES[part or "english"],),
        )
        for part in parts
    ]  # fmt: skip


_V3 = {
    "finance-en": ("Vidore3FinanceEnRetrieval", "fa78cb14152b3dde8c5defdc4e3ddf50de69dfeb"),
    "industrial": ("Vidore3IndustrialRetrieval", "f732b725cf4a70803210edfe265a04f8bd5328f6"),
    "computer-science": ("Vidore3ComputerScienceRetrieval", "fb7fb69f81f7db62790f40494124b8ad22b424ab"),
    "pharmaceuticals": ("Vidore3PharmaceuticalsRetrieval", "237ed4f43c7fb3c4df07ec4e9dd0a4366be555b0"),
    "hr": ("Vidore3HrRetrieval", "bc7d43d64815ed30f664168c8052106484aba7fd"),
    "finance-fr": ("Vidore3FinanceFrRetrieval", "8a2adfda85a7967c7252129703d9b3c7c9f038a9"),
    "physics": ("Vidore3PhysicsRetrieval", "2c18ef90ab3ef93a9d86ecc6521cdae2a29f8300"),
    "energy": ("Vidore3EnergyRetrieval", "84fca99e5978604bae30f2436eacb6dbaa0532e9"),
}


def _v3(name: str) -> list[Task]:
    mteb, revision = _V3[name]
    return [
        Task(
            name=f"vidore3-{name}-{code}", hub=f"vidore/vidore_v3_{name.replace('-', '_')}_mteb_format",
            revision=revision, part=language, group=f"vidore3-{name}", mteb=mteb, license="cc-by-4.0",
            measures=("nDCG@10", "nDCG@5", "R@10"), documents=("image",), instruction=_ASKED, languages=(code,),
        )
        for language, code in _CODES.items()
    ]  # fmt: skip


_CITE = "Faysse et al., ColPali: Efficient Document Retrieval with Vision Language Models, arXiv:2407.01449"

BENCHMARKS = (
    Benchmark(name="vidore-v1", title="10 tasks on single pages", tasks=V1, measure="nDCG@5", citation=_CITE,
              source=SOURCE),
    Benchmark(name="vidore-v2", title="4 collections, questions in up to four languages",
              tasks=tuple(task for name in _V2 for task in _v2(name)), measure="nDCG@5",
              citation="Macé et al., ViDoRe Benchmark V2, arXiv:2505.17166", source=SOURCE),
    Benchmark(name="vidore-v3", title="the 8 public collections, questions in six languages",
              tasks=tuple(task for name in _V3 for task in _v3(name)), measure="nDCG@10",
              citation="Loison et al., ViDoRe V3", source=f"{SOURCE}; two further collections are not public"),
)  # fmt: skip
