"""InfoNCE over a batch's distinct documents.

van den Oord, Li and Vinyals, "Representation Learning with Contrastive Predictive Coding" (arXiv 1807.03748),
equation 4, with in-batch negatives as in Karpukhin et al., "Dense Passage Retrieval for Open-Domain Question
Answering" (EMNLP 2020), section 3.2.
"""

from __future__ import annotations

import torch
from torch import Tensor


def infonce(queries: Tensor, documents: Tensor, *, positives: Tensor, allowed: Tensor, temperature: float) -> Tensor:
    """Mean over the queries of -log softmax(similarity / temperature) at the positive.

    The similarity is computed in float32 whatever the model's precision: at temperature 0.01 the step between two
    neighbouring bfloat16 numbers near 0.7 would be 0.4 in the logit.

    Args:
        queries: [Q, H].
        documents: [D, H], each document once.
        positives: int64 [Q], column of each query's positive.
        allowed: bool [Q, D], False for documents that a query's softmax leaves out (its other positives).
        temperature: positive; similarities are divided by it.

    Returns:
        Scalar float32.

    Raises:
        ValueError: shapes that do not fit together, or a positive that is not allowed.
    """
    shape = (len(queries), len(documents))
    if allowed.shape != shape or positives.shape != shape[:1]:
        raise ValueError(
            f"allowed {tuple(allowed.shape)}, positives {tuple(positives.shape)}; expected {shape}, {shape[:1]}"
        )
    if not bool(allowed.gather(1, positives[:, None]).all()):
        raise ValueError("a query's positive is not allowed for it")
    with torch.autocast(device_type=queries.device.type, enabled=False):
        logits = queries.float() @ documents.float().T / temperature
        return torch.nn.functional.cross_entropy(logits.masked_fill(~allowed, float("-inf")), positives)
