"""The report of a run: one HTML page that needs nothing beside it."""

from __future__ import annotations

import base64
import html
import math
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from string import Template

from teva_data.files import atomic_file

from .compare import TOP, Example, Hit
from .pipeline import Outcome

EXCERPT = 260
"""Characters of a document that are shown."""

_PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
$style</style>
</head>
<body>
<main>
$body
</main>
</body>
</html>
""")
_KINDS = {
    "better": "Better after training: the right document stands higher in {count} of {total} queries",
    "worse": "Worse after training: lower in {count} of {total}",
    "unchanged": "At the same rank: {count} of {total}",
}


def write_report(outcome: Outcome, path: Path) -> None:
    """Write the page of a run, atomically."""
    page = render(outcome)
    with atomic_file(path, "w") as file:
        file.write(page)


def render(outcome: Outcome) -> str:
    """The page of a run, as HTML."""
    parts = [
        _head(outcome),
        _measures(outcome),
        _training(outcome),
        _examples(outcome),
        _places(outcome),
    ]
    style = resources.files(__package__).joinpath("report.css").read_text(encoding="utf-8")
    title = f"teva quickstart: {outcome.prepared.title}"
    return _PAGE.substitute(title=_text(title), style=style, body="\n".join(parts))


def _head(outcome: Outcome) -> str:
    verdict = "finds more of what is asked for" if outcome.better else "does not find more of what is asked for"
    model = Path(outcome.model)
    # The default's directory is called "model" inside its package; its parent says more.
    name = model.parent.name if model.name == "model" else model.name
    unseen = ", about packages of which training saw nothing" if outcome.options.data is None else ""
    return (
        f"<h1>{_text(outcome.prepared.title)}</h1>\n"
        f'<p class="lead">After {outcome.training.steps} training steps of {outcome.options.batch_size} queries, '
        f"<b>{_text(name)}</b> {verdict} on {outcome.after.queries:,} held-out queries{unseen}.</p>"
    )


def _measures(outcome: Outcome) -> str:
    rows = []
    for name, before in outcome.before.mean.items():
        after = outcome.after.mean[name]
        rows.append(
            f'<tr><td class="name">{_text(name)}</td><td class="number">{before:.4f}</td>'
            f'<td class="number">{after:.4f}</td>'
            f'<td class="number {_direction(after - before)}">{after - before:+.4f}</td>'
            f'<td class="bars">{_bar("before", before)}{_bar("after", after)}</td></tr>'
        )
    return (
        '<h2>Held-out queries</h2>\n<table class="measures"><tr><th>measure</th><th class="number">before</th>'
        '<th class="number">after</th><th class="number">change</th><th class="bars">'
        '<span class="key before"></span>before<span class="key after"></span>after, on a scale from 0 to 1</th></tr>\n'
        + "\n".join(rows)
        + "\n</table>"
    )


def _direction(change: float) -> str:
    return "gain" if change > 0 else "loss" if change < 0 else ""


def _bar(kind: str, value: float) -> str:
    return f'<div class="bar {kind}" style="width: {100 * value:.1f}%"></div>'


def _training(outcome: Outcome) -> str:
    picture = (outcome.training.output / "loss.png").read_bytes()
    encoded = base64.b64encode(picture).decode()
    image = f'<img alt="Loss and learning rate over the steps" src="data:image/png;base64,{encoded}">'
    times = "\n".join(
        f'<tr><td>{_text(part.title)}</td><td class="number">{_duration(part.seconds)}</td></tr>'
        for part in outcome.tour.parts
    )
    return (
        "<h2>Training</h2>\n"
        f'<div class="two"><div>{image}\n<table>{times}\n'
        f'<tr><th>All</th><td class="number"><b>{_duration(outcome.tour.seconds)}</b></td></tr></table></div>\n'
        f"<pre>{_text(outcome.recipe)}</pre></div>"
    )


def _examples(outcome: Outcome) -> str:
    counts, total = outcome.comparison.counts, sum(outcome.comparison.counts.values())
    parts = [
        "<h2>What was found</h2>",
        f"<p>The best {TOP} documents for some of the held-out queries, evenly spaced over each of the three lists. "
        "Right documents are marked.</p>",
    ]
    for kind, examples in outcome.comparison.examples.items():
        if examples:
            parts.append(f"<h3>{_KINDS[kind].format(count=counts[kind], total=total)}</h3>")
            parts += [_example(example) for example in examples]
    return "\n".join(parts)


def _example(example: Example) -> str:
    before, after = example.ranks
    sides = "".join(
        f'<div><div class="side">{side}</div>{_hits(hits)}</div>'
        for side, hits in zip(("Before", "After"), example.hits, strict=True)
    )
    answer = ""
    if min(example.ranks) > TOP:
        answer = f'<div class="answer"><div class="side">Right</div>{_hit("", Hit(example.answer, right=True))}</div>'
    return (
        f'<div class="example"><p class="query">{_text(example.query)}</p>'
        f'<p class="rank">Best right document: {_rank(before)} before, {_rank(after)} after</p>'
        f'<div class="two">{sides}</div>{answer}</div>'
    )


def _hits(hits: Iterable[Hit]) -> str:
    return "".join(_hit(str(place), hit) for place, hit in enumerate(hits, 1))


def _hit(place: str, hit: Hit) -> str:
    document = hit.document
    text = " ".join(f"{document.title} {document.document_text}".split())
    if len(text) > EXCERPT:
        text = text[: text.rfind(" ", 0, EXCERPT) if " " in text[:EXCERPT] else EXCERPT] + " …"
    mark = " right" if hit.right else ""
    return (
        f'<div class="hit{mark}"><span class="place">{place}</span>'
        f'<span>{_text(text)}<span class="docid">{_text(document.docid)}</span></span></div>'
    )


def _places(outcome: Outcome) -> str:
    places = {
        "The trained model, in sentence-transformers' layout": outcome.training.artifact.path,
        "What it found for the held-out queries": outcome.run_after,
        "What the model found before": outcome.run_before,
        "The dataset": outcome.prepared.path,
        "The training run: log, metrics, picture of the loss, checkpoints": outcome.training.output,
    }
    rows = "\n".join(
        f"<tr><td>{_text(what)}</td><td><code>{_text(where)}</code></td></tr>" for what, where in places.items()
    )
    commands = "\n".join(outcome.tour.commands)
    return (
        f"<h2>Where everything is</h2>\n<table>{rows}</table>\n"
        f"<h2>The same by hand</h2>\n"
        f"<p>These commands do what the quickstart did, part by part.</p>\n<pre>{_text(commands)}</pre>"
    )


def _rank(rank: float) -> str:
    return "not found" if math.isinf(rank) else f"rank {rank:.0f}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s" if seconds >= 1 else "below 1 s"


def _text(value: object) -> str:
    return html.escape(str(value))
