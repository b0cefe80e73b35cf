"""Losses written once more, in numpy and float64, one pair at a time: what the fast ones are compared with.

Every function takes the whole batch: ``positive[i]`` is the document of query i, ``relevant[i]`` the set of all
documents that are right for it, ``groups[i]`` its positive and its listed negatives (-1 for none). Each gives the sum
over the queries ``own[0]`` to ``own[1]`` - 1, divided by the number of all queries.
"""

from __future__ import annotations

import math

import numpy as np


def infonce(queries, documents, positive, relevant, groups, own, t, directions, margin=None, ratio=None):
    """The contrastive loss as a sum over explicit lists of pairs."""
    total = 0.0
    for i in range(*own):
        p = positive[i]
        right = float(queries[i] @ documents[p])

        def kept(similarities, right=right):
            limits = [right + margin] if margin is not None else []
            limits += [right * ratio] if ratio is not None else []
            return [s for s in similarities if all(s <= limit for limit in limits)]

        terms = [right]
        terms += kept([float(queries[i] @ d) for c, d in enumerate(documents) if c not in relevant[i]])
        if "query_to_query" in directions:
            others = [j for j in range(len(queries)) if j != i]
            others = [j for j in others if p not in relevant[j] and positive[j] not in relevant[i]]
            terms += kept([float(queries[i] @ queries[j]) for j in others])
        if "document_to_query" in directions:
            terms += [right]
            others = [j for j in range(len(queries)) if j != i and p not in relevant[j]]
            terms += kept([float(queries[j] @ documents[p]) for j in others])
        if "document_to_document" in directions:
            left_out = relevant[i] | {int(c) for c in groups[i]}
            others = [c for c in range(len(documents)) if c not in left_out]
            terms += kept([float(documents[c] @ documents[p]) for c in others])
        top = max(terms)
        total += math.log(sum(math.exp((term - top) / t) for term in terms)) + (top - right) / t
    return total / len(queries)


def kl_divergence(queries, documents, groups, scores, own, student, teacher):
    """Sum of p log(p / q) over each group."""
    total = 0.0
    for i in range(*own):
        places = [place for place, column in enumerate(groups[i]) if column >= 0]
        p = _softmax([scores[i][place] / teacher for place in places])
        q = _softmax([float(queries[i] @ documents[groups[i][place]]) / student for place in places])
        total += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)
    return total / len(queries)


def margin_mse(queries, documents, groups, scores, own, student=1.0, teacher=1.0):
    """Mean over a query's negatives of the squared difference of two margins."""
    total = 0.0
    for i in range(*own):
        right = float(queries[i] @ documents[groups[i][0]])
        errors = []
        for column, score in list(zip(groups[i], scores[i], strict=True))[1:]:
            if column >= 0:
                wrong = float(queries[i] @ documents[column])
                errors.append(((right - wrong) / student - (scores[i][0] - score) / teacher) ** 2)
        total += sum(errors) / len(errors) if errors else 0.0
    return total / len(queries)


def matryoshka(loss, queries, documents, dims, weights, normalize):
    """Sum of a loss of the first numbers of every vector."""

    def prefix(vectors, dim):
        cut = vectors[:, :dim]
        if normalize and dim < vectors.shape[1]:
            cut = np.stack([row / math.sqrt(float(row @ row)) for row in cut])
        return cut

    pairs = zip(dims, weights, strict=True)
    return sum(weight * loss(prefix(queries, dim), prefix(documents, dim)) for dim, weight in pairs)


def numerical_gradient(function, value, step=1e-6):
    """Central differences of a scalar function at an array."""
    gradient = np.zeros_like(value)
    for index in np.ndindex(value.shape):
        up, down = value.copy(), value.copy()
        up[index] += step
        down[index] -= step
        gradient[index] = (function(up) - function(down)) / (2 * step)
    return gradient


def _softmax(values):
    top = max(values)
    parts = [math.exp(value - top) for value in values]
    return [part / sum(parts) for part in parts]
