"""The names of measures: ir_measures' form (``nDCG@10``) is ours; other toolkits' names are understood.

To add a measure that trec_eval computes, add it to ``FAMILIES``; its own names in other toolkits are found by rule.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from teva_data.errors import TevaError, nearest


@dataclass(frozen=True)
class Family:
    """A kind of measure: what it is called here and elsewhere, and whether it has a cutoff.

    Args:
        name: ours.
        whole: trec_eval's name without a cutoff; None where a cutoff is needed.
        cut: trec_eval's name before the cutoff (``ndcg_cut`` of ``ndcg_cut_10``); None where there is none.
        also: other toolkits' names of the same measure.
    """

    name: str
    whole: str | None
    cut: str | None
    also: tuple[str, ...] = ()


FAMILIES = (
    Family("nDCG", "ndcg", "ndcg_cut"),
    Family("R", None, "recall"),
    Family("RR", "recip_rank", "recip_rank", also=("MRR",)),
    Family("AP", "map", "map_cut"),
    Family("P", None, "P", also=("precision",)),
    Family("Success", None, "success", also=("hit_rate",)),
    Family("Rprec", "Rprec", None),
    Family("Bpref", "bpref", None),
)


@dataclass(frozen=True)
class Measure:
    """One measure.

    Args:
        family: the family's name, ``nDCG``.
        cutoff: the rank at which the run is cut for it; None: the whole run.
        trec_name: what trec_eval prints for it, ``ndcg_cut_10``. ``RR@k`` has none: trec_eval knows no cutoff there,
            so this is ``recip_rank``, and the value is 0 where the first relevant document stands below rank k.
    """

    family: str
    cutoff: int | None
    trec_name: str

    @property
    def name(self) -> str:
        """Our name of it: ``nDCG@10``."""
        return self.family if self.cutoff is None else f"{self.family}@{self.cutoff}"


def parse_measure(name: str) -> Measure:
    """Understand the name of a measure.

    Args:
        name: ``nDCG@10``, ``nDCG``, ``R@100``, ``RR@10``, ``RR``, ``AP@100``, ``AP`` (or ``MAP``), ``P@10``,
            ``Success@5``, ``Rprec``, ``Bpref``, in upper or lower case; trec_eval's ``ndcg_cut_10``, ``recall_100``,
            ``recip_rank``, ``map``, ``map_cut_100``, ``P_10``, ``success_5``; MTEB's ``ndcg_at_10``, ``mrr_at_10``.

    Raises:
        TevaError: unknown name (the nearest known one is named), a cutoff that is missing, not allowed, or below 1.
    """
    match = re.fullmatch(r"(.+?)(?:(?:@|_at_|_)(\d{1,9}))?", name.strip(), re.IGNORECASE)
    stem, digits = (match[1], match[2]) if match else (name, None)
    family = _BY_NAME.get(stem.lower())
    if family is None:
        raise TevaError(f"unknown measure {name!r}. {nearest(name, _examples(digits))}")
    cutoff = None if digits is None else int(digits)
    if cutoff is None:
        # `ndcg_cut` alone would be a measure at many cutoffs.
        if family.whole is None or (stem.lower() == family.cut and family.cut != family.whole):
            raise TevaError(f"measure {name!r} needs a cutoff, e.g. {family.name}@10")
        return Measure(family.name, None, family.whole)
    if family.cut is None:
        raise TevaError(f"measure {name!r}: {family.name} takes no cutoff")
    if cutoff < 1:
        raise TevaError(f"measure {name!r}: a cutoff is 1 or more")
    trec_name = family.cut if family.name == "RR" else f"{family.cut}_{cutoff}"
    return Measure(family.name, cutoff, trec_name)


def parse_measures(names: Iterable[str] | str) -> tuple[Measure, ...]:
    """Understand several names (or one); each measure once, in the order given.

    Raises:
        TevaError: no names, or one that :func:`parse_measure` does not take.
    """
    measures = tuple(dict.fromkeys(parse_measure(name) for name in ([names] if isinstance(names, str) else names)))
    if not measures:
        raise TevaError("no measures: name at least one, e.g. nDCG@10")
    return measures


def trec_printed(name: str) -> Measure | None:
    """The measure for which trec_eval prints ``name``; None where we do not have it.

    Stricter than :func:`parse_measure`: other measures of trec_eval have names that begin like ours
    (``ndcg_rel``, ``Rprec_mult_0.20``, ``relative_P_10``).
    """
    try:
        measure = parse_measure(name)
    except TevaError:
        return None
    return measure if measure.trec_name == name else None


def _names(family: Family) -> set[str]:
    return {name.lower() for name in (family.name, family.whole, family.cut, *family.also) if name}


_BY_NAME = {name: family for family in FAMILIES for name in _names(family)}


def _examples(digits: str | None) -> list[str]:
    with_cutoff = [f"{family.name}@{digits or 10}" for family in FAMILIES if family.cut]
    return with_cutoff + [family.name for family in FAMILIES if family.whole]
