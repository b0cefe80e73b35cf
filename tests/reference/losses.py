"""Losses written once more, in numpy and float64, one number at a time: what the fast ones are compared with."""

from __future__ import annotations

import math

import numpy as np


def infonce(queries, documents, positives, allowed, temperature):
    """Mean over queries of log(sum over allowed documents of exp(s/t)) - s_positive/t."""
    total = 0.0
    for row, query in enumerate(queries):
        scores = [
            sum(float(a) * float(b) for a, b in zip(query, document, strict=True)) / temperature
            for document in documents
        ]
        top = max(scores)
        kept = [math.exp(score - top) for score, keep in zip(scores, allowed[row], strict=True) if keep]
        total += math.log(sum(kept)) + top - scores[positives[row]]
    return total / len(queries)


def numerical_gradient(function, value, step=1e-6):
    """Central differences of a scalar function at an array."""
    gradient = np.zeros_like(value)
    for index in np.ndindex(value.shape):
        up, down = value.copy(), value.copy()
        up[index] += step
        down[index] -= step
        gradient[index] = (function(up) - function(down)) / (2 * step)
    return gradient
