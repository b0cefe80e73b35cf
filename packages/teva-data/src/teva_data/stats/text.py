"""Statistics as text for a terminal: a table, bars, and sentences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from teva_data.stats import DatasetStatistics, Statistics

WIDTH = 40
FEW = 10
"""Pairs of splits that are told of though they have nothing in common."""
_EIGHTHS = " ▏▎▍▌▋▊▉█"


def show_statistics(found: DatasetStatistics) -> str:
    """All of it."""
    blocks = [table(found.parts)]
    blocks += ["\n".join(_bars(part, measure)) for part in found.parts for measure in part.histograms
               if not (part.name == "corpus" and measure == "text")]  # fmt: skip
    blocks.append("\n".join(_sentences(found)))
    return "\n\n".join(blocks)


def table(found: Sequence[Statistics]) -> str:
    """Counts and spreads as an aligned table."""
    header = ("", "rows", "of each", "mean", "min", "median", "90 %", "99 %", "max")
    rows = [
        (each.name, f"{each.rows:,}", measure, f"{mean:,.1f}", *(f"{value:,.0f}" for value in quantiles))
        for each in found
        for measure, (mean, *quantiles) in each.spreads.items()
    ]
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    left = (0, 2)
    lines = []
    for row in (header, *rows):
        cells = [
            cell.ljust(width) if at in left else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _bars(part: Statistics, measure: str) -> Iterator[str]:
    unit = "" if measure == "tokens" else ", characters"
    yield f"{part.name}: {measure}{unit}"
    counts = part.histograms[measure]
    first = next(at for at, count in enumerate(counts) if count)
    names = [_bin(at) for at in range(len(counts))]
    width, most = max(map(len, names)), max(counts)
    for name, count in list(zip(names, counts, strict=True))[first:]:
        yield f"{name:>{width}}  {_bar(count / most)}  {count:,}"


def _bin(at: int) -> str:
    return str(at) if at < 2 else f"{1 << (at - 1):,} to {(1 << at) - 1:,}"


def _bar(share: float) -> str:
    # A bin that has any row shows it.
    eighths = max(round(share * WIDTH * 8), 1 if share else 0)
    whole, rest = divmod(eighths, 8)
    return ("█" * whole + (_EIGHTHS[rest] if rest else "")).ljust(WIDTH)


def _sentences(found: DatasetStatistics) -> Iterator[str]:
    corpus, *splits = found.parts
    for part in found.parts:
        if part.repeated:
            what = "documents" if part is corpus else "queries"
            some, share = f"{part.repeated:,} of {part.rows:,}", part.repeated / part.rows
            yield f"{part.name}: {some} {what} say what an earlier one says ({share:.1%})"
        if part.unknown:
            yield f"{part.name}: {part.unknown:,} names of documents are not in the corpus"
        for kind, count in part.media.items():
            yield f"{part.name}: {count:,} {kind} pieces, {part.media_bytes[kind] / 1e6:,.1f} MB"
        if part.scripts:
            shown = [f"{name} {share:.1%}" for name, share in part.scripts.items() if share >= 0.001]
            yield f"{part.name}: letters are {', '.join(shown)}"
    if splits:
        share = found.unnamed / corpus.rows
        yield f"{found.unnamed:,} of {corpus.rows:,} documents are named by no query ({share:.1%})"
    for each in found.overlaps:
        first, second = each.splits
        if len(found.overlaps) > FEW and not each.queries and not each.positives:
            continue
        yield (
            f"{first} and {second}: {each.queries:,} queries in common, "
            f"{each.positives:,} documents are positives in both"
        )
