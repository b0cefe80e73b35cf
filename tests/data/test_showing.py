"""What is shown is what training does: strings, tokens, cuts, choices of a step."""

from __future__ import annotations

import io
import json

import pytest
import yaml
from PIL import Image
from transformers import AutoTokenizer

from teva_data.artifact import Artifact
from teva_data.cli import main
from teva_data.dataset import Dataset
from teva_data.errors import DataError, RecipeError
from teva_data.layout import write_layout
from teva_data.plan import BatchPlan
from teva_data.prompting import resolve_prompts, training_renderer
from teva_data.recipe import load_recipe
from teva_data.rendering import Renderer
from teva_data.showing import Rendered, training_example
from teva_data.showing.text import show_example
from teva_data.showing.tokens import tokens_of


@pytest.fixture
def data(write):
    write("corpus.jsonl", [
        {"docid": "d0", "title": "River", "document_text": "the river is  slow\n and blue "},
        {"docid": "d1", "title": "", "document_text": "stone " * 100},
        {"docid": "d2", "title": "only a title"},
        *({"docid": f"x{n}", "document_text": f"paper {n}"} for n in range(5)),
    ])  # fmt: skip
    return write("train.jsonl", [
        {"query_id": "q0", "query_text": "how fast?", "positive_document_ids": ["d0", "d2"],
         "negative_document_ids": ["d1", *(f"x{n}" for n in range(5))], "positive_scores": [2, 1]},
        {"query_id": "é 1", "query_text": "a red table", "positive_document_ids": ["x1"], "prompt": "own: "},
    ]).parent  # fmt: skip


@pytest.fixture
def prompted(tiny_model, tmp_path):
    """The tiny BERT with prompts of its own and a limit of 20."""
    model = tmp_path / "prompted"
    model.mkdir()
    for file in tiny_model.iterdir():
        if file.is_file():
            (model / file.name).write_bytes(file.read_bytes())
    write_layout(model, pooling="mean", normalize=True, dim=32, max_length=20,
                 prompts={"query": "what: ", "document": "page: "}, teva={}, card="")  # fmt: skip
    return model


def recipe(base, data, **changes):
    value = {
        "model": {"name": str(base), "query_max_length": 8, "document_max_length": 12},
        "data": {"path": str(data), "negatives": 2},
        "train": {"output": "out", "steps": 5, "batch_size": 4, "seed": 3},
    }
    for key, part in changes.items():
        value[key] = {**value.get(key, {}), **part}
    return value


def check_tokens(shown: Rendered, model, limit: int) -> None:
    """Against transformers' own tokenizer, called the plain way."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    whole = tokenizer(shown.text).input_ids
    kept = tokenizer(shown.text, truncation=True, max_length=limit).input_ids
    tokens = shown.tokens
    assert tokens.kept == tokenizer.convert_ids_to_tokens(kept)
    assert tokens.special == [
        number in tokenizer.all_special_ids and number != tokenizer.unk_token_id for number in kept
    ]
    assert (tokens.count, tokens.limit, tokens.cut) == (len(whole), limit, len(whole) > limit)
    first, last = tokens.span
    assert tokenizer(shown.text[first:last]).input_ids == kept  # exactly what is kept is called kept
    assert ((first, last) == (0, len(shown.text))) is not tokens.cut


def test_without_a_model_strings_only(data):
    example = training_example(data)
    assert (example.query.text, example.query.prompt, example.query.tokens) == ("how fast?", "", None)
    assert [(each.role, each.identifier, each.text, each.score) for each in example.documents] == [
        ("positive", "d0", "River the river is  slow\n and blue ", 2.0), ("positive", "d2", "only a title", 1.0),
        ("negative", "d1", "stone " * 100, None), ("negative", "x0", "paper 0", None),
    ]  # fmt: skip
    assert example.left_out == (0, 4)
    assert (example.query.file, example.query.line) == (str(data / "train.jsonl"), 1)
    assert [each.line for each in example.documents] == [1, 3, 2, 4]
    (data / "dataset.yaml").write_text('prompts: {query: "card: "}')
    assert training_example(data).query.text == "card: how fast?"
    assert training_example(data, query_id="é 1").query.text == "own: a red table"
    assert training_example(data, row=1, documents=9).left_out == (0, 0)


@pytest.mark.parametrize("name", ["prompted", "tiny_decoder"])
def test_tokens_are_those_of_the_model(data, request, name):
    model = request.getfixturevalue(name)
    limit, prompts = (20, ("what: ", "page: ")) if name == "prompted" else (64, ("", ""))
    example = training_example(data, model=model, documents=9)
    assert example.query.text == prompts[0] + "how fast?"
    assert example.documents[0].text == prompts[1] + "River the river is  slow\n and blue "
    assert len(example.documents) == 8
    for each in (example.query, *example.documents):
        check_tokens(each, model, limit)
    assert [each.identifier for each in example.documents if each.tokens.cut] == (["d1"])


def test_a_tokenizer_that_cuts_on_the_left(tiny_decoder):
    renderer = Renderer.from_artifact(Artifact.load(tiny_decoder))
    renderer.tokenizer.truncation_side = "left"
    tokens = tokens_of(renderer, "red blue green river city", 3)
    assert (tokens.kept, tokens.span) == (["river", "city", "<eos>"], (15, 25))
    assert tokens_of(renderer, "", 3).span == (0, 0)


def test_whose_prompt_holds(data, prompted, tmp_path):
    def of(prompts: dict, query_id: str = "q0", **entry) -> list[tuple[str, str]]:
        value = recipe(prompted, data, prompts=prompts)
        if entry:
            value["data"] = {"datasets": [{"path": str(data), **entry}], "negatives": 2}
        example = training_example(data, query_id=query_id, recipe=load_recipe(value))
        assert example.query.text.startswith(example.query.prompt)
        assert all(each.text.startswith(each.prompt) for each in example.documents)
        return [(each.prompt, each.prompt_from) for each in (example.query, example.documents[0])]

    assert of({}) == [("what: ", "the model"), ("page: ", "the model")]
    (data / "dataset.yaml").write_text('prompts: {query: "card: "}')
    assert of({}) == [("card: ", "dataset.yaml"), ("page: ", "the model")]
    assert of({"query": "", "document": "r: "}) == [("", "the recipe"), ("r: ", "the recipe")]
    assert of({"query": "r: "}, query_prompt="e: ") == [("e: ", "the recipe"), ("page: ", "the model")]
    assert of({"query": "r: "}, query_id="é 1", query_prompt="e: ")[0] == ("own: ", "the row")


def test_a_recipe_gives_the_limits(data, prompted):
    example = training_example(data, recipe=load_recipe(recipe(prompted, data)), documents=9)
    check_tokens(example.query, prompted, 8)
    for each in example.documents:
        check_tokens(each, prompted, 12)
    with pytest.raises(RecipeError, match="at most 64, the positions"):
        training_example(data, recipe=load_recipe(recipe(prompted, data, model={"document_max_length": 65})))


def test_a_step_is_what_training_takes(data, tiny_data, prompted):
    """Against the batch that the trainer itself is fed."""
    from teva_data.feed import Feed

    value = recipe(prompted, data)
    value["data"] = {
        "datasets": [{"path": str(data), "query_prompt": "e: ", "document_prompt": "f: "}, {"path": str(tiny_data)}],
        "negatives": 2,
    }
    plan = load_recipe(value)
    base = Artifact.load(prompted)
    datasets = [Dataset.open(data), Dataset.open(tiny_data)]
    resolved = resolve_prompts(plan, base, datasets)
    feed = Feed(BatchPlan.from_recipe(resolved, datasets), training_renderer(resolved, base), resolved)
    tokenizer = AutoTokenizer.from_pretrained(prompted)
    seen = set()
    for step in range(8):
        item = feed.batch(step)
        places = {0: 0, 1: 0}
        for at, part in enumerate(item.batch.dataset.tolist()):
            example = training_example((data, tiny_data)[part], recipe=plan, step=step, row=places[part])
            places[part] += 1
            assert example.query.tokens.kept == tokenizer.convert_ids_to_tokens(item.query_ids[at])
            columns = [column for column in item.batch.groups[at].tolist() if column >= 0]
            assert [each.tokens.kept for each in example.documents] == [
                tokenizer.convert_ids_to_tokens(item.document_ids[column]) for column in columns
            ]
            assert [each.role for each in example.documents] == ["positive", *["negative"] * (len(columns) - 1)]
            seen.add((part, example.query.identifier))
    assert {part for part, _ in seen} == {0, 1}


def test_arguments_that_exclude_each_other(data, tiny_data, prompted):
    plan = load_recipe(recipe(prompted, data))
    for options, told in [
        ({"row": 1, "query_id": "q0"}, "row, query_id: found both"),
        ({"model": prompted, "recipe": plan}, "recipe, model: found both"),
        ({"step": 0}, "step: found 0; expected .* and a recipe"),
        ({"step": -1, "recipe": plan}, "step: found -1"),
        ({"documents": -1}, "documents: found -1"),
    ]:
        with pytest.raises(RecipeError, match=told):
            training_example(data, **options)
    value = recipe(prompted, data)
    value["data"] = {"datasets": [{"path": str(data)}, {"path": str(data), "split": "train"}]}
    with pytest.raises(RecipeError, match=r"data.datasets: found .*; expected .* among them"):
        training_example(tiny_data, recipe=load_recipe(value))
    with pytest.raises(RecipeError, match=r"data.split: found 'train'; expected 'test', whose step"):
        training_example(tiny_data, "test", recipe=plan, step=0)


def test_what_is_not_there_is_named(data, prompted):
    plan = load_recipe(recipe(prompted, data))
    for options, told in [
        ({"row": 2}, r"train.jsonl: field 'row': no such row; found 2; expected 0 to 1"),
        ({"row": -1}, r"no such row; found -1"),
        (
            {"query_id": "no"},
            r"train.jsonl: field 'query_id': unknown query; found 'no'; expected one of its 2",
        ),
        ({"split": "dev"}, r"unknown split; found 'dev'"),
        ({"recipe": plan, "step": 0, "row": 4}, r"queries of step 0; found 'row 4'"),
        (
            {"recipe": load_recipe(recipe(prompted, data)), "step": 0, "query_id": "no"},
            r"found 'no'; expected one of \[",
        ),
    ]:
        with pytest.raises(DataError, match=told):
            training_example(data, **options)


def test_an_unknown_document_is_named(write):
    write("corpus.jsonl", [{"docid": "a", "document_text": "x"}])
    data = write("train.jsonl", [{"query_id": "q", "query_text": "x", "positive_document_ids": ["no"]}]).parent
    with pytest.raises(DataError, match=r"corpus.jsonl: field 'docid': unknown document; found 'no'"):
        training_example(data)


def test_command_line(data, prompted, tmp_path, capsys):
    assert main(["show", str(data), "--model", str(prompted)]) == 0
    printed = capsys.readouterr().out
    assert 'a document is prompt + title + " " + document_text; without the space' in printed
    assert f'query q0  ({data}/train.jsonl:1)\n  prompt  "what: ", from the model\n' in printed
    assert '  text    "page: River the river is  slow\\n and blue "\n' in printed
    stones = printed.split("negative d1")[1].split("negative x0")[0]
    kept = stones.split("text    ")[1].split("\n")[0]
    assert json.loads(kept) == "page: " + " ".join(["stone"] * 13)  # 20 tokens: 2 special, 5 of the prompt
    assert '  cut off 87 tokens, 523 of 606 characters: ✂ " stone stone' in stones
    assert "  tokens  20 of 107, limit 20, 2 special\n          ⟨[CLS]⟩ p ##a ##g ##e [UNK] stone" in stones
    assert stones.rstrip().endswith("stone ⟨[SEP]⟩")
    assert "and 0 more positives, 4 more negatives (--documents shows them)" in printed
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe(prompted, data)))
    assert main(["show", str(data), "--recipe", str(file), "--step", "1", "--row", "2"]) == 0
    assert "step 1, query 2 of the 4 of this dataset" in capsys.readouterr().out
    assert main(["show", str(data), "--row", "7"]) == 1
    assert "no such row" in capsys.readouterr().err


def test_media_are_described(write, tmp_path):
    picture = io.BytesIO()
    Image.new("RGB", (31, 17)).save(picture, "PNG")
    media = tmp_path / "data" / "media"
    media.mkdir(parents=True)
    (media / "a.png").write_bytes(picture.getvalue())
    (media / "0.tar").write_bytes(b"." * 700 + picture.getvalue() + b"no sound")
    size = len(picture.getvalue())
    write("corpus.jsonl", [
        {"docid": "a", "title": "T", "document_text": ["one", "two"],
         "document_image": ["media/a.png", {"file": "media/0.tar", "offset": 700, "length": size}]},
        {"docid": "b", "document_audio": {"file": "media/0.tar", "offset": 700 + size, "length": 8}},
        {"docid": "c", "document_image": {"file": "media/0.tar", "offset": 0, "length": 9}},
    ])  # fmt: skip
    data = write("train.jsonl", [
        {"query_id": "q", "query_image": "media/a.png", "positive_document_ids": ["a"],
         "negative_document_ids": ["b", "c"]}
    ]).parent  # fmt: skip
    printed = show_example(training_example(data))
    pieces = [line.removeprefix("  piece   ") for line in printed.splitlines() if line.startswith("  piece")]
    where = f"{data}/media"
    assert pieces == [
        f"image {where}/a.png, {size} bytes, 31 x 17 pixels",
        'text "one"', f"image {where}/a.png, {size} bytes, 31 x 17 pixels",
        'text "two"', f"image {where}/0.tar, {size} bytes from byte 700 on, 31 x 17 pixels",
        f"audio {where}/0.tar, 8 bytes from byte {700 + size} on",
        f"image {where}/0.tar, 9 bytes",  # no picture: no size
    ]  # fmt: skip
    assert '  text    "T one two"' in printed


def test_a_text_that_spells_a_special_token_is_told_apart(data, prompted, write):
    write("corpus.jsonl", [{"docid": "x1", "document_text": "red [SEP] ␣\t\x07"}])
    write("train.jsonl", [{"query_id": "q", "query_text": "x", "positive_document_ids": ["x1"]}])
    example = training_example(data, model=prompted)
    assert "⟨[CLS]⟩ p ##a ##g ##e [UNK] red [SEP] [UNK] ⟨[SEP]⟩" in show_example(example)
    assert '"page: red [SEP] ␣\\t\\u0007"' in show_example(example)
