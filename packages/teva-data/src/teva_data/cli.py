"""``teva-data``: the command line of this package."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import tyro

from . import commandline


def convert(
    source: Annotated[str, tyro.conf.arg(metavar="SOURCE"), tyro.conf.Positional],
    destination: Annotated[Path, tyro.conf.arg(metavar="DESTINATION"), tyro.conf.Positional],
    *,
    layout: Annotated[str, tyro.conf.arg(name="from", aliases=["--layout"], metavar="FORMAT")] = "auto",
    form: Literal["jsonl", "jsonl.zst", "parquet"] = "jsonl",
    media: Literal["files", "bytes", "link"] = "files",
    query_field: str | None = None,
    document_field: str | None = None,
    held_out: float = 0.1,
    splits: tuple[str, ...] = (),
    part: str | None = None,
    modalities: tuple[Literal["text", "image", "video", "audio"], ...] = (),
    corpus: str | None = None,
    assets: Path | None = None,
    missing: Literal["error", "skip"] = "error",
    local: Path | None = None,
    revision: str | None = None,
    token: str | None = None,
    offline: bool = False,
    overwrite: bool = False,
) -> None:
    """Make a dataset of data in another layout.

    Args:
        source: a file, a directory, the id of a dataset on the hub (owner/name), or the name of a declared one
            (`teva-data datasets list`).
        destination: the directory to make.
        layout: what the source is; auto guesses, and says what and why. A wrong name lists the known ones.
        form: of the corpus and the splits that are written.
        media: each picture, clip or recording becomes a file; or they go as bytes into uncompressed archives; or
            nothing is copied and the dataset links to the source.
        query_field: take the query's text from this field (column) in place of the usual names.
        document_field: take the document's text from this field (column) in place of the usual names.
        held_out: pairs only: share of the questions that become the split "test".
        splits: only these splits.
        part: which of several collections in one source, e.g. a language.
        modalities: what is kept of documents that have several of these; all, where nothing is named (of the layout
            plain: media without their captions).
        corpus: where the documents are, in layouts that keep them apart: a file, a directory or a hub id.
        assets: captions only: a directory of clips or an archive (tar) of them.
        missing: captions only: a clip that is not there is an error, or left out with its captions (skip).
        local: a declared dataset only: read this local copy of its repositories in place of the hub.
        revision: branch, tag or commit on the hub.
        token: the hub's access token, in place of the one that is logged in.
        offline: take hub ids from the hub's local cache only.
        overwrite: replace a dataset that is there.
    """
    from .conversion import convert
    from .datasets import known

    if local is not None or (source in known() and not Path(source).exists()):
        from teva_data.conversion.declared import convert_declared, refuse_told

        refuse_told(
            source, layout=layout != "auto", query_field=query_field, document_field=document_field, part=part,
            held_out=held_out != 0.1, modalities=modalities, corpus=corpus, assets=assets, missing=missing != "error",
            revision=revision,
        )  # fmt: skip
        convert_declared(
            source, destination, local=local, splits=splits, form=form, media=media, token=token, offline=offline,
            overwrite=overwrite,
        )  # fmt: skip
        return
    convert(
        source, destination, layout=layout, form=form, media=media, query_field=query_field,
        document_field=document_field, held_out=held_out, splits=splits, part=part, modalities=modalities,
        corpus=corpus, assets=assets, missing=missing, revision=revision, token=token, offline=offline,
        overwrite=overwrite,
    )  # fmt: skip


def datasets(
    action: Annotated[Literal["list", "show"], tyro.conf.Positional],
    name: Annotated[str | None, tyro.conf.arg(metavar="NAME"), tyro.conf.Positional] = None,
) -> None:
    """Show the datasets that are declared: those that `teva-data convert NAME DESTINATION` gets and converts.

    Args:
        action: list all, or show one.
        name: the one to show.
    """
    from .datasets import declaration, declarations
    from .errors import DataError

    if action == "show":
        if name is None:
            raise DataError("no name", field="name", hint="`teva-data datasets list` shows the names")
        print(declaration(name).describe())
        return
    for each in declarations():
        print(f"{each.name:<16} {', '.join(each.modalities):<12} {each.queries.hub:<30} {each.title}")


def negatives(
    data: Annotated[Path, tyro.conf.arg(metavar="DATA"), tyro.conf.Positional],
    *,
    run: Path,
    output: Path,
    split: str = "train",
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
    report: Path | None = None,
    overwrite: bool = False,
) -> None:
    """Write a split's queries with negatives taken from a run (what a search ranked high and is no answer).

    Args:
        data: the dataset's directory.
        run: a run of the split's queries over the corpus, three columns or TREC's six.
        output: the file to write; DATA/train-mined.jsonl becomes the split "train-mined".
        split: whose queries.
        count: negatives wanted for each query.
        skip: ranks left out at the top, where answers that nobody judged are likeliest.
        depth: ranks looked at, those left out included.
        sample: top takes the best ranked, random any of the ranks.
        seed: names the random choice.
        margin: a negative's score must be at most the positive's less this.
        max_ratio: a negative's score must be at most this share of the positive's, such as 0.95.
        unranked_positive: where the run holds no positive of a query, take the lowest score that the run has for the
            query, or drop the query (matters to margin, max-ratio and keep-scores).
        drop_if_positive_below: leave out a query that has no positive among this many best ranked.
        keep_scores: write the run's scores of positives and negatives, to distil from.
        report: a JSONL file to write, outside DATA; it tells what was left out of which query, and why.
        overwrite: replace files that are there.
    """
    from .negatives import mine_negatives

    mine_negatives(
        data,
        split,
        run,
        output,
        count=count,
        skip=skip,
        depth=depth,
        sample=sample,
        seed=seed,
        margin=margin,
        max_ratio=max_ratio,
        unranked_positive=unranked_positive,
        drop_if_positive_below=drop_if_positive_below,
        keep_scores=keep_scores,
        report=report,
        overwrite=overwrite,
    )


def push(
    data: Annotated[Path, tyro.conf.arg(metavar="DATA"), tyro.conf.Positional],
    repository: Annotated[str, tyro.conf.arg(metavar="OWNER/NAME"), tyro.conf.Positional],
    *,
    private: bool = False,
    revision: str | None = None,
    token: str | None = None,
    prune: bool = False,
    dry_run: bool = False,
) -> None:
    """Check a dataset and publish it on a hub, with a card from which `datasets.load_dataset` loads it.

    Args:
        data: the dataset's directory.
        repository: where to; made where it is missing.
        private: a new repository is seen by its owner alone.
        revision: the branch to write, made where it is missing.
        token: the hub's access token; the one that is logged in where not given.
        prune: delete the repository's files that the dataset does not have.
        dry_run: print the files with their sizes and the card, and upload nothing.
    """
    from .publishing import push

    publication = push(data, repository, private=private, revision=revision, token=token, prune=prune, dry_run=dry_run)
    print(publication.describe() if dry_run else f"{repository}: {len(publication.files)} files and the card")


def stats(
    data: Annotated[Path, tyro.conf.arg(metavar="DATA"), tyro.conf.Positional],
    *,
    model: str | None = None,
    json: Path | None = None,
) -> None:
    """Print how large a dataset is, how long its texts are, what stands twice, and what its splits have in common.

    Args:
        data: the dataset's directory.
        model: also count tokens, with the tokenizer and prompts of this model (directory or hub id).
        json: write the numbers to this file too.
    """
    from teva_data.stats.text import show_statistics

    from .files import write_json
    from .stats import statistics

    found = statistics(data, model=model)
    print(show_statistics(found))
    if json is not None:
        write_json(json, found.to_dict())


def verify(data: Annotated[Path, tyro.conf.arg(metavar="DATA"), tyro.conf.Positional]) -> None:
    """Read the stores of a dataset whole and compare every block with its checksum.

    Args:
        data: the dataset's directory.
    """
    from .dataset import Dataset

    print(f"{data}: nothing is damaged in the stores of {', '.join(Dataset.open(data).verify())}")


def validate(
    data: Annotated[Path, tyro.conf.arg(metavar="DATA"), tyro.conf.Positional],
    *,
    split: str | None = None,
    decode: bool = False,
    limit: int = 50,
    json: Path | None = None,
) -> int:
    """Look for everything that is wrong with a dataset, in one go; the exit status is 1 where there is an error.

    Args:
        data: the dataset's directory.
        split: look at the corpus and at this split alone.
        decode: also open every picture, recording and clip.
        limit: problems printed; all are counted.
        json: write the problems to this file too (the first 1000 of each class).
    """
    from .files import write_json
    from .validation import validate

    limit = max(limit, 0)
    report = validate(data, split=split, decode=decode, keep=max(limit, 1000))
    for problem in report.problems[:limit]:
        print(problem)
    if (more := report.errors + report.warnings - min(limit, len(report.problems))) > 0:
        print(f"... and {more:,} more; --limit shows them")
    print(report)
    if json is not None:
        write_json(json, report.to_dict())
    return 1 if report.errors else 0


def show(
    data: Annotated[Path, tyro.conf.arg(metavar="DATA"), tyro.conf.Positional],
    *,
    split: str | None = None,
    row: int | None = None,
    query_id: str | None = None,
    model: str | None = None,
    recipe: Path | None = None,
    step: int | None = None,
    documents: int = 2,
    pictures: Path | None = None,
) -> None:
    """Print one training example as the model will see it: prompts, title, text, where it is cut, tokens, media.

    Args:
        data: the dataset's directory.
        split: whose query; the recipe's, else train.
        row: which query, counted from 0; with step its place among this dataset's queries in the batch.
        query_id: which query, by its id.
        model: show this model's tokens, prompts and limit (directory or hub id).
        recipe: a recipe file; shows its model, prompts and limits.
        step: the documents that this step of the recipe's training takes, in place of all that the row lists.
        documents: positives shown at most, and negatives.
        pictures: a directory to write its media to as the model takes them: pictures, the frames of clips, the wave and
            spectrogram of recordings (needs a model or a recipe that sees or hears).
    """
    from teva_data.showing.text import show_example

    from .recipe import load_recipe
    from .showing import training_example

    loaded = None if recipe is None else load_recipe(recipe)
    example = training_example(
        data, split, row=row, query_id=query_id, model=model, recipe=loaded, step=step, documents=documents
    )
    print(show_example(example))
    if pictures is not None:
        from .showing.pictures import save

        for path in save(example, pictures):
            print(path)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    return commandline.run(
        "teva-data",
        "Retrieval data: convert it, look at it, mine negatives for it.",
        {
            "convert": convert,
            "datasets": datasets,
            "negatives": negatives,
            "push": push,
            "show": show,
            "stats": stats,
            "validate": validate,
            "verify": verify,
        },
        argv,
    )
