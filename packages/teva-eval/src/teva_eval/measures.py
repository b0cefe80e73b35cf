"""The names of measures: ir_measures' form (``nDCG@10``, ``AP(rel=2)@100``) is ours; other toolkits' are understood.

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
        graded: the grades are its gains, so no grade is the lowest that counts.
        counts_all: its value depends on how many documents were retrieved, not on the judged ones' ranks alone.
    """

    name: str
    whole: str | None
    cut: str | None
    also: tuple[str, ...] = ()
    graded: bool = False
    counts_all: bool = False


FAMILIES = (
    Family("nDCG", "ndcg", "ndcg_cut", graded=True),
    Family("R", None, "recall"),
    Family("RR", "recip_rank", "recip_rank", also=("MRR",)),
    Family("AP", "map", "map_cut"),
    Family("P", None, "P", also=("precision",)),
    Family("Success", None, "success", also=("hit_rate",)),
    Family("Rprec", "Rprec", None),
    Family("Bpref", "bpref", None),
    Family("infAP", "infAP", None),
    Family("SetP", "set_P", None, counts_all=True),
    Family("SetR", "set_recall", None),
    Family("SetF", "set_F", None, counts_all=True),
)


@dataclass(frozen=True)
class Measure:
    """One measure.

    Args:
        family: the family's name, ``nDCG``.
        cutoff: the rank at which the run is cut for it; None: the whole run.
        trec_name: what trec_eval prints for it, ``ndcg_cut_10``. ``RR@k`` has none: trec_eval knows no cutoff there,
            so this is ``recip_rank``, and the value is 0 where the first relevant document stands below rank k.
        level: the lowest grade that is relevant for it, where its name says so; None: the one of the scoring.
    """

    family: str
    cutoff: int | None
    trec_name: str
    level: int | None = None

    @property
    def name(self) -> str:
        """Our name of it: ``nDCG@10``, ``AP(rel=2)@100``."""
        stem = self.family if self.level is None else f"{self.family}(rel={self.level})"
        return stem if self.cutoff is None else f"{stem}@{self.cutoff}"

    @property
    def counts_all(self) -> bool:
        """Whether its value depends on how many documents were retrieved."""
        return _BY_NAME[self.family.lower()].counts_all


def parse_measure(name: str) -> Measure:
    """Understand the name of a measure.

    Args:
        name: ``nDCG@10``, ``nDCG``, ``R@100``, ``RR@10``, ``RR``, ``AP@100``, ``AP`` (or ``MAP``), ``P@10``,
            ``Success@5``, ``Rprec``, ``Bpref``, in upper or lower case; trec_eval's ``ndcg_cut_10``, ``recall_100``,
            ``recip_rank``, ``map``, ``map_cut_100``, ``P_10``, ``success_5``; MTEB's ``ndcg_at_10``, ``mrr_at_10``.
            ``AP(rel=2)@100`` takes grades from 2 on as relevant, whatever the scoring's level is.

    Raises:
        TevaError: unknown name (the nearest known one is named); a cutoff that is missing, not allowed, or below 1; a
            parameter other than ``rel``, or ``rel`` of nDCG, whose gains are the grades.
    """
    match = re.fullmatch(r"(.+?)(?:\(([^()]*)\))?(?:(?:@|_at_|_)(\d{1,9}))?", name.strip(), re.IGNORECASE)
    stem, parameters, digits = (match[1], match[2], match[3]) if match else (name, None, None)
    family = _BY_NAME.get(stem.lower())
    if family is None:
        raise TevaError(f"unknown measure {name!r}. {nearest(name, _examples(digits))}")
    level = None if parameters is None else _level(name, family, parameters)
    cutoff = None if digits is None else int(digits)
    if cutoff is None:
        # `ndcg_cut` alone would be a measure at many cutoffs.
        if family.whole is None or (stem.lower() == family.cut and family.cut != family.whole):
            raise TevaError(f"measure {name!r} needs a cutoff, e.g. {family.name}@10")
        return Measure(family.name, None, family.whole, level)
    if family.cut is None:
        raise TevaError(f"measure {name!r}: {family.name} takes no cutoff")
    if cutoff < 1:
        raise TevaError(f"measure {name!r}: a cutoff is 1 or more")
    trec_name = family.cut if family.name == "RR" else f"{family.cut}_{cutoff}"
    return Measure(family.name, cutoff, trec_name, level)


def _level(name: str, family: Family, parameters: str) -> int:
    match = re.fullmatch(r"\s*rel\s*=\s*([1-9]\d{0,3})\s*", parameters)
    if match is None or family.graded:
        known = "takes no parameter" if family.graded else "takes rel=LEVEL alone, e.g. rel=2"
        raise TevaError(f"measure {name!r}: {family.name} {known}")
    return int(match[1])


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
