"""Training negatives from a run: what a search ranked high and no judgement calls an answer.

A document that scores too near to the positive is often an answer that nobody judged. ``margin`` and ``max_ratio``
leave it out (TopK-MarginPos and TopK-PercPos of "NV-Retriever", arXiv 2407.15831). The positive's score is the run's;
of several positives it is the lowest that the run holds, since training sets the negatives against each of them.

``drop_if_positive_below`` is the filter that "Tevatron 2.0" (arXiv 2505.02466, section 3.1.1) applies to PixMo: with
``depth`` of the same value and ``sample="random"``, negatives are drawn from the non-positives among the same ranks.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Literal

from teva_data.dataset import Dataset

from .answers import Answers, Texts
from .choice import Choice, Report
from .files import Spool, check_places, report_file, write_mined
from .mining import Miner

logger = logging.getLogger(__name__)


def mine_negatives(
    dataset: Dataset | str | Path,
    split: str,
    run: str | Path,
    output: str | Path,
    *,
    count: int = 8,
    skip: int = 0,
    depth: int = 100,
    sample: Literal["top", "random"] = "random",
    seed: int = 0,
    margin: float | None = None,
    max_ratio: float | None = None,
    unranked_positive: Literal["lowest", "drop"] = "lowest",
    drop_if_positive_below: int | None = None,
    keep_scores: bool = False,
    report: str | Path | None = None,
    overwrite: bool = False,
) -> Report:
    """Write a split's queries with negatives taken from a run; negatives that they had are replaced.

    A document is no negative where it is a positive of the query, or of another query with the same text and prompt,
    or where its text, title included, is that of such a positive.

    The run is read query by query, so it may be larger than memory.

    Args:
        dataset: the dataset, or its directory.
        split: whose queries.
        run: a run of these queries over the dataset's corpus (three or six columns), the lines of a query together.
        output: the file to write, ``.jsonl``; in the dataset's directory it is a new split.
        count: negatives wanted for each query.
        skip: ranks left out at the top, where unjudged answers are likeliest.
        depth: ranks looked at, those left out included.
        sample: ``top`` takes the best ranked; ``random`` any of the ranks, each equally likely.
        seed: names the random choice.
        margin: a negative's score must be at most the positive's less this.
        max_ratio: a negative's score must be at most this share of the positive's (of a positive's score below 0: as
            far below it, so 0.95 of -2 is -2.1).
        unranked_positive: what stands for the score of a query's positives where the run holds none of them: the
            ``lowest`` score that the run has for the query (no positive can score more), or ``drop`` the query. Decides
            with ``margin``, ``max_ratio`` and ``keep_scores`` only.
        drop_if_positive_below: leave out a query that has no positive among this many best ranked.
        keep_scores: write the run's scores as ``positive_scores`` and ``negative_scores``, as a teacher's; a positive
            that the run does not hold gets the lowest score that the run has for the query.
        report: a JSONL file to write: a line for each dropped query, and for each query and reason for which ranked
            documents were left out (``query_id``, ``dropped``, ``reason``, ``docids``).
        overwrite: replace files that are there.

    Returns:
        Counts of what was done; they are logged too.

    Raises:
        DataError: the run names an unknown document, holds none of the split's queries, or holds the lines of a query
            in two places; the split does not pass :meth:`Dataset.check_references`; every query would be dropped; the
            output may not be written; or an argument is out of range.
    """
    choice = Choice(
        count, skip, depth, sample, seed, margin, max_ratio, unranked_positive, drop_if_positive_below, keep_scores
    )
    if not isinstance(dataset, Dataset):
        dataset = Dataset.open(dataset)
    output, reason_file = Path(output), None if report is None else Path(report)
    check_places(output, reason_file, dataset, split, overwrite)
    dataset.check_references(split)
    queries = dataset.queries(split)
    with Spool(output.parent, len(queries)) as spool, report_file(reason_file) as note:
        miner = Miner(choice, split, Path(run), queries, Answers(queries), Texts(dataset.corpus), spool, note, Report())
        miner.search()
        write_mined(output, miner.mined(), dataset.path)
    logger.info("%s: %s", output, miner.report)
    return miner.report
