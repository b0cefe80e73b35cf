"""Training and held-out queries that share neither an answer nor a text."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from teva_data.records import Query


def hold_out(queries: Sequence[Query], held: Callable[[Query], bool]) -> tuple[list[Query], list[Query]]:
    """Split queries into those for training and those for the test.

    A query that is to be held out but shares an answer or its text with one for training is in neither list: training
    would have seen what it asks for.

    Args:
        queries: all of them.
        held: tells of a query whether it is to be held out.

    Returns:
        Training queries and held-out queries, in their order.
    """
    train = [query for query in queries if not held(query)]
    answers = {docid for query in train for docid in query.positive_document_ids}
    texts = {query.query_text.casefold() for query in train}
    test = [
        query
        for query in queries
        if held(query) and answers.isdisjoint(query.positive_document_ids) and query.query_text.casefold() not in texts
    ]
    return train, test
