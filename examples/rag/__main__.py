"""Answer questions from a corpus: teva's retriever and a generator, both in vLLM, side by side on one machine.

    uv run --group vllm python -m examples.rag RETRIEVER GENERATOR DATA "who wrote Faust?" "capital of Peru"

The retriever runs in vLLM in a process of its own (teva-infer's engine ``vllm``), with the prompts, limit and pooling
of its artifact; the generator in this one. On one GPU each gets the share ``--memory`` of its memory.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from teva_data import Dataset
from teva_infer import Encoder, encode
from teva_infer.searching import search_block

PROMPT = "Answer from these texts.\n\n{texts}\n\nQuestion: {question}\nAnswer:"
WORDS = 100  # of each text, so that the prompt fits into a small generator


def retrieve(encoder: Encoder, data: Path, work: Path, questions: list[str], depth: int) -> list[list[str]]:
    """The texts of the best documents for each question. The corpus is encoded once, and kept in ``work``."""
    dataset = Dataset.open(data)
    corpus = encode(encoder, dataset, work / "corpus")
    _, rows, filled = search_block(encoder.encode_queries(questions), corpus, min(depth, len(corpus)))
    # Embeddings stand in the order of the corpus.
    best = [dataset.corpus.get(line[kept]) for line, kept in zip(rows, filled, strict=True)]
    texts = [[f"{each.title or ''} {each.document_text}".split() for each in documents] for documents in best]
    return [[" ".join(words[:WORDS]) for words in each] for each in texts]


def main() -> None:
    """Print a line of JSON for each question: the question, what was found, the answer."""
    parser = argparse.ArgumentParser(description="Answer questions from a corpus, retriever and generator in vLLM.")
    parser.add_argument("retriever", help="an artifact of teva's")
    parser.add_argument("generator", help="a causal language model that vLLM knows")
    parser.add_argument("data", type=Path, help="the dataset whose corpus answers")
    parser.add_argument("questions", nargs="+")
    parser.add_argument("--work", type=Path, default=Path("rag-work"), help="for the corpus's embeddings")
    parser.add_argument("--depth", type=int, default=3, help="documents given to the generator")
    parser.add_argument("--memory", type=float, default=0.4, help="share of a GPU's memory for each of the two")
    found = parser.parse_args()

    from vllm import LLM, SamplingParams
    from vllm.platforms import current_platform

    on_cpu = current_platform.is_cpu()
    shared: dict[str, Any] = {} if on_cpu else {"gpu_memory_utilization": found.memory}
    encoder = Encoder.load(found.retriever, engine="vllm", engine_options=shared)
    generator = LLM(found.generator, enforce_eager=on_cpu, **shared)
    texts = retrieve(encoder, found.data, found.work, found.questions, found.depth)
    prompts = [
        PROMPT.format(texts="\n".join(each), question=question)
        for question, each in zip(found.questions, texts, strict=True)
    ]
    outputs = generator.generate(prompts, SamplingParams(temperature=0, max_tokens=32))
    for question, each, output in zip(found.questions, texts, outputs, strict=True):
        answer = output.outputs[0].text.strip()
        print(json.dumps({"question": question, "found": each, "answer": answer}, ensure_ascii=False))
    encoder.close()


if __name__ == "__main__":
    main()
