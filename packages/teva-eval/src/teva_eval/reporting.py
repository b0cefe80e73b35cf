"""A report of results: one HTML page that needs nothing beside it, and the same tables as Markdown and LaTeX."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from teva_data.files import atomic_file

from .benchmarks import benchmark
from .gallery import STYLE as GALLERY
from .gallery import galleries
from .measures import parse_measure
from .published import ROWS_2, ROWS_3, SOURCE, TABLE_2, TABLE_3, Row
from .records import find_records
from .running import benchmark_value
from .tables import by_system

DASH = "–"


@dataclass(frozen=True)
class Table:
    """A table of numbers.

    Attributes:
        title: above it.
        header: names of the columns.
        rows: cells; numbers are printed already.
        published: of each row, whether others published it.
        best: of each row, the columns in which it is the best of those measured here.
        note: below it.
    """

    title: str
    header: list[str]
    rows: list[list[str]]
    published: list[bool]
    best: list[set[int]]
    note: str = ""


def report(directories: Iterable[str | Path], output: str | Path, *, title: str = "Retrieval results",
           reference: bool = True) -> list[Path]:  # fmt: skip
    """Write ``report.html``, ``report.md`` and ``report.tex``.

    Args:
        directories: where results lie, as :func:`teva_eval.evaluate` wrote them.
        output: the directory for the three files.
        title: of the page.
        reference: the paper's rows stand in its tables, marked as published.

    Returns:
        the files.

    Raises:
        DataError: no results.
        MissingExtraError: matplotlib, which draws, is not installed.
    """
    from .drawing import draw

    found = find_records(directories)
    records = [record for _, record in found]
    tables = [*paper_tables(records, reference), task_table(records), modality_table(records)]
    tables = [table for table in tables if table.rows]
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    contents = {
        "report.html": page(title, tables, draw(records), records, galleries(found)),
        "report.md": markdown(title, tables), "report.tex": latex(tables),
    }  # fmt: skip
    for name, content in contents.items():
        with atomic_file(output / name, "w") as file:
            file.write(content)
    return [output / name for name in contents]


def paper_tables(records: Sequence[dict[str, Any]], reference: bool = True) -> list[Table]:
    """Tables 2 and 3 of the paper, with its rows and ours; a column of ours is empty where a task of it lacks."""
    tables = []
    for title, columns, rows in (
        ("Multimodal and multilingual retrieval", TABLE_2, ROWS_2), ("Video and audio retrieval", TABLE_3, ROWS_3),
    ):  # fmt: skip
        ours = [row for row in _own_rows(records, columns) if row.values]
        if ours:
            measures = ", ".join(f"{name} {benchmark(each).measure}" for name, each in columns.items())
            lines = [*(rows if reference else ()), *ours]
            notes = [f"{row.method}: {row.note}" for row in lines if row.note]
            note = "; ".join([f"Times 100; {measures}", *([f"† published ({SOURCE})"] if reference else []), *notes])
            tables.append(_table(title, ["Method", "Base model", *columns], lines, list(columns), note))
    return tables


def task_table(records: Sequence[dict[str, Any]]) -> Table:
    """A row for each system and variant, a column for each task with its main measure."""
    tasks = {record["task"]["name"]: parse_measure(record["task"]["measures"][0]).name for record in records}
    rows = []
    for (system, variant), found in by_system(records).items():
        values = {}
        for record in found:
            scores = record["variants"][variant] if variant else record["scores"]
            values[record["task"]["name"]] = 100 * scores[tasks[record["task"]["name"]]]
        rows.append(Row(f"{system} {variant}".strip(), _base(found[0]), values, published=False))
    header = ["System", "Base model", *(f"{task} {measure}" for task, measure in tasks.items())]
    return _table("Tasks", header, rows, list(tasks), "Times 100. Every row was measured here")


def modality_table(records: Sequence[dict[str, Any]]) -> Table:
    """A row for each system and variant, a column for each pair of what queries and what documents are made of.

    A cell is the mean of the main measures of the tasks whose data are so. Without a row where all data are text.
    """
    kinds = {record["task"]["name"]: _pair(record) for record in records}
    columns = sorted(set(kinds.values()), key=lambda pair: (pair.count("image"), pair))
    rows = []
    for (system, variant), found in by_system(records).items():
        values: dict[str, list[float]] = {}
        for record in found:
            scores = record["variants"][variant] if variant else record["scores"]
            main = parse_measure(record["task"]["measures"][0]).name
            values.setdefault(kinds[record["task"]["name"]], []).append(100 * scores[main])
        means = {pair: sum(each) / len(each) for pair, each in values.items()}
        rows.append(Row(f"{system} {variant}".strip(), _base(found[0]), means, published=False))
    note = "Times 100: the mean of each task's main measure, by what queries and documents of its data are made of"
    plain = all(pair in (_TEXTS, DASH) for pair in columns)
    header = ["System", "Base model", *columns]
    return _table("Modalities of queries and documents", header, [] if plain else rows, columns, note)


_TEXTS = "text → text"


def _pair(record: Mapping[str, Any]) -> str:
    """Of a result, ``image + text → image`` and the like; a dash where its record does not tell."""
    kinds = record["data"].get("modalities")
    return DASH if kinds is None else " → ".join(" + ".join(kinds[side]) for side in ("queries", "documents"))


def _own_rows(records: Sequence[dict[str, Any]], columns: dict[str, str]) -> list[Row]:
    rows = []
    for (system, variant), found in by_system(records).items():
        values = {
            column: 100 * value for column, name in columns.items()
            if (value := benchmark_value(benchmark(name), found, variant)) is not None
        }  # fmt: skip
        rows.append(Row(f"{system} {variant}".strip(), _base(found[0]), values, published=False))
    return rows


def _base(record: Mapping[str, Any]) -> str:
    return str(record["system"].get("base_model") or "")


def _table(title: str, header: list[str], rows: Sequence[Row], columns: list[str], note: str) -> Table:
    best: list[set[int]] = [set() for _ in rows]
    for place, column in enumerate(columns):
        own = [(row.values[column], number) for number, row in enumerate(rows)
               if column in row.values and not row.published]  # fmt: skip
        for value, number in own if len(own) > 1 else []:
            if value == max(own)[0]:
                best[number].add(place + 2)
    cells = [
        [row.method + ("†" if row.published else ""), row.base_model or DASH,
         *(f"{row.values[column]:.1f}" if column in row.values else DASH for column in columns)]
        for row in rows
    ]  # fmt: skip
    return Table(title, header, cells, [row.published for row in rows], best, note)


def markdown(title: str, tables: Sequence[Table]) -> str:
    """All tables; the best of those measured here is bold."""
    parts = [f"# {title}"]
    for table in tables:
        lines = ["| " + " | ".join(table.header) + " |", "|---|---|" + "---:|" * (len(table.header) - 2)]
        for row, best in zip(table.rows, table.best, strict=True):
            cells = [f"**{cell}**" if number in best else cell for number, cell in enumerate(row)]
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        parts += [f"## {table.title}", "\n".join(lines), table.note]
    return "\n\n".join(part for part in parts if part) + "\n"


def latex(tables: Sequence[Table]) -> str:
    """All tables, for ``booktabs``; a rule parts what was published from what was measured."""
    parts = []
    for table in tables:
        lines = [r"\begin{table}", r"\centering", rf"\caption{{{_tex(table.title)}. {_tex(table.note)}.}}",
                 rf"\begin{{tabular}}{{ll{'c' * (len(table.header) - 2)}}}", r"\toprule",
                 " & ".join(map(_tex, table.header)) + r" \\", r"\midrule"]  # fmt: skip
        before = True
        for row, published, best in zip(table.rows, table.published, table.best, strict=True):
            if before and not published and any(table.published):
                lines.append(r"\midrule")
            before = published
            cells = [rf"\textbf{{{_tex(cell)}}}" if number in best else _tex(cell) for number, cell in enumerate(row)]
            lines.append(" & ".join(cells) + r" \\")
        parts.append("\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}"]))
    return "\n\n".join(parts) + "\n"


_TEX = {"\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
        "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "†": r"$^\dagger$", DASH: "--"}  # fmt: skip


def _tex(text: str) -> str:
    return "".join(_TEX.get(sign, sign) for sign in text)


STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 68rem; padding: 0 1rem; }
h1 { font-size: 1.7rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .8rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child, th:nth-child(2), td:nth-child(2) { text-align: left; }
tr.published { opacity: .7; } tbody tr:hover { background: var(--soft); }
figure { margin: 1.2rem 0; background: #fff; padding: .5rem; border-radius: 6px; }
figure img { max-width: 100%; } figcaption { color: #444; font-size: .9rem; }
p.note { font-size: .9rem; opacity: .8; } details { margin: .4rem 0; } dl { display: grid; gap: 0 1rem;
grid-template-columns: max-content 1fr; margin: .4rem 0 .8rem 1rem; font-size: .9rem; } dd { margin: 0;
overflow-wrap: anywhere; }
"""


def page(
    title: str,
    tables: Sequence[Table],
    figures: Sequence[tuple[str, str]],
    records: Sequence[dict[str, Any]],
    found: Sequence[str] = (),
) -> str:
    """The HTML page; figures are (caption, data URI of a picture), and ``found`` shows what was found."""
    parts = [_html_table(table) for table in tables]
    for caption, uri in figures:
        text = html.escape(caption)
        parts.append(f'<figure><img src="{uri}" alt="{text}"><figcaption>{text}</figcaption></figure>')
    parts += found
    parts.append("<h2>Conditions</h2><p>What every number was measured under; result.json holds it all.</p>")
    parts += [_conditions(record) for record in records]
    name = html.escape(title)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{name}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}{GALLERY}</style></head>'
        f"<body><h1>{name}</h1>\n" + "\n".join(parts) + "\n</body></html>\n"
    )


def _html_table(table: Table) -> str:
    head = "".join(f'<th scope="col">{html.escape(cell)}</th>' for cell in table.header)
    rows = []
    for row, published, best in zip(table.rows, table.published, table.best, strict=True):
        cells = "".join(
            f"<td>{f'<b>{html.escape(cell)}</b>' if number in best else html.escape(cell)}</td>"
            for number, cell in enumerate(row)
        )
        rows.append(f"<tr{' class=published' if published else ''}>{cells}</tr>")
    return (
        f'<h2>{html.escape(table.title)}</h2><div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>'
        f'{"".join(rows)}</tbody></table></div><p class="note">{html.escape(table.note)}</p>'
    )


def _conditions(record: dict[str, Any]) -> str:
    system, task, data, settings = (record[key] for key in ("system", "task", "data", "settings"))
    facts = {
        "scores": ", ".join(f"{name} {value:.4f}" for name, value in record["scores"].items()),
        "source": task["hub"] and f"{task['hub']}@{task['revision'] or 'newest'}, split {task['split']}",
        "data": f"{data['documents']:,} documents, {record['counts']['queries']:,} queries judged, fingerprint "
        f"{data['corpus_fingerprint']}",
        "rules": f"title {settings['title']}, self-hits {settings['self_hits']}, missing queries "
        f"{settings['missing']}, depth {settings['depth']}, ties: {settings['ties']}",
        "missing": record["counts"]["missing"] and f"{record['counts']['missing']} judged queries without results",
        **{name: system.get(name) for name in ("model", "fingerprint", "prompts", "max_length", "pooling", "dtype",
                                               "engine", "k1", "b", "stemmer")},
        "versions": ", ".join(f"{name} {version}" for name, version in record["versions"].items()),
        "run": record["runs"][""]["checksum"],
    }  # fmt: skip
    items = "".join(
        f"<dt>{html.escape(name)}</dt><dd>{html.escape(str(value))}</dd>" for name, value in facts.items() if value
    )
    name = html.escape(f"{system['name']}, {task['name']}")
    return f"<details><summary>{name}</summary><dl>{items}</dl></details>"
