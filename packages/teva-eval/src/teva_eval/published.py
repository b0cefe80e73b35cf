"""Rows that others published, for tables beside ours: Tables 2 and 3 of arXiv:2505.02466, read, not measured here."""

from __future__ import annotations

from dataclasses import dataclass

SOURCE = "Tevatron 2.0, arXiv:2505.02466, Tables 2 and 3"


@dataclass(frozen=True)
class Row:
    """A line of the paper's tables.

    Attributes:
        method: the system.
        base_model: what it was trained from.
        values: by column, times 100, as printed.
        published: whether others published it; ours were measured.
        note: what the table says of it.
    """

    method: str
    base_model: str
    values: dict[str, float]
    published: bool = True
    note: str = ""


# The columns of the two tables, and the benchmark that each is.
TABLE_2 = {"BEIR": "beir", "ViDoRe": "vidore-v1", "MIRACL": "miracl"}
TABLE_3 = {"MSR-VTT": "msrvtt", "AudioCaps": "audiocaps"}

ROWS_2 = (
    Row("BGE-M3", "X-RoBERTa", {"BEIR": 50.0, "ViDoRe": 66.1, "MIRACL": 69.2}, note="ViDoRe on text read by OCR"),
    Row("MistralE5", "Mistral0.1-7B", {"BEIR": 59.0, "MIRACL": 62.2}),
    Row("DSE-QWen2", "Qwen2vl-2B", {"ViDoRe": 85.8}),
    Row("GME-2B", "Qwen2vl-2B", {"BEIR": 55.4, "ViDoRe": 87.8}),
    Row("Tevatron-WikiSS", "Qwen2.5vl-3B", {"BEIR": 40.8, "ViDoRe": 73.3, "MIRACL": 30.6}),
    Row("Tevatron-BGE", "Qwen2.5vl-3B", {"BEIR": 57.0, "ViDoRe": 76.4, "MIRACL": 67.5}),
    Row("Tevatron-VL", "Qwen2.5vl-3B", {"BEIR": 54.3, "ViDoRe": 85.3, "MIRACL": 66.5}),
    Row("Tevatron-Omni", "Qwen2.5Omni", {"BEIR": 58.2, "ViDoRe": 85.8, "MIRACL": 69.1}),
)
ROWS_3 = (
    Row("CLIP", "", {"MSR-VTT": 31.2}),
    Row("CE", "", {"AudioCaps": 23.1}),
    Row("Tevatron-Omni", "Qwen2.5Omni", {"MSR-VTT": 51.3, "AudioCaps": 34.0}),
)
