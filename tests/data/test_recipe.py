from __future__ import annotations

import pytest
import yaml
from pydantic import Field

from teva_data.errors import RecipeError
from teva_data.recipe import DataSection, LossSection, TrainSection, load_recipe
from teva_data.sections import Section, check_section, describe, parse_overrides

GOOD = """schema: "1"
model:
  name: some/model
prompts:
  # query: "query: "
data:
  path: here
train:
  output: out
  steps: 5
  learning_rate: 2e-5
torch:
  device: cpu
"""


def refused(path, line: int, words: list[str]) -> None:
    """The recipe is refused at the line, with the words."""
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    message = str(caught.value)
    assert f"{path}:{line}:" in message
    for word in words:
        assert word in message


@pytest.fixture
def recipe_file(tmp_path):
    def write(text):
        path = tmp_path / "recipe.yaml"
        path.write_text(text)
        return path

    return write


def test_defaults_and_numbers(recipe_file):
    recipe = load_recipe(recipe_file(GOOD))
    # YAML 1.1 reads 2e-5 as text.
    assert recipe.train.learning_rate == 2e-5
    assert recipe.loss.temperature == 0.02
    assert recipe.prompts.query is None
    assert recipe.torch == {"device": "cpu"}


def test_a_recipe_reads_back_what_it_writes(recipe_file):
    recipe = load_recipe(recipe_file(GOOD))
    assert load_recipe(recipe.to_dict()) == recipe
    assert load_recipe(recipe.to_dict()).deciding() == recipe.deciding()


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ("  steps: 5", "  stpes: 5", 10, ["train.stpes", "unknown key", "'steps'"]),
        ("model:", "modle:", 2, ["modle", "unknown key", "'model'"]),
        ("  steps: 5", "  steps: many", 10, ["train.steps", "integer", "'many'"]),
        ("  steps: 5", "  steps: 0", 10, ["train.steps", "greater than or equal to 1"]),
        ("  steps: 5", "  steps: 5\n  epochs: 1", 8, ["exactly one of steps and epochs", "--train.epochs null"]),
        ("  path: here", "  split: x", 6, ["data.path", "exactly one of path and datasets"]),
        ("  path: here", "  path: here\n  path: there", 8, ["data.path", "given twice", "line 7"]),
        ('schema: "1"', 'schema: "9"', 1, ["schema", "'9'"]),
    ],
)
def test_errors_have_an_address(recipe_file, old, new, line, words):
    path = recipe_file(GOOD.replace(old, new))
    refused(path, line, words)


def test_all_problems_at_once(recipe_file):
    with pytest.raises(RecipeError) as caught:
        load_recipe(recipe_file(GOOD.replace("steps: 5", "stepz: 5").replace("name: some/model", "nme: x")))
    assert "train.stepz" in str(caught.value)
    assert "model.nme" in str(caught.value)


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "model: [", "\x00"])
def test_not_a_recipe(recipe_file, text):
    path = recipe_file(text)
    with pytest.raises(RecipeError, match=r"recipe\.yaml"):
        load_recipe(path)


def test_no_such_file(tmp_path):
    with pytest.raises(RecipeError, match="teva-torch init"):
        load_recipe(tmp_path / "nowhere.yaml")


def test_a_word_where_keys_are_expected(recipe_file):
    with pytest.raises(RecipeError, match=r"--loss.options: .*Write --loss.options.NAME VALUE"):
        load_recipe(recipe_file(GOOD), ["--loss.options", "{scale: 10}"])


def test_overrides(recipe_file):
    words = ["--train.steps", "7", "--loss.temperature=0.5", "--prompts.query", "query: "]
    recipe = load_recipe(recipe_file(GOOD), words)
    assert (recipe.train.steps, recipe.loss.temperature, recipe.prompts.query) == (7, 0.5, "query: ")
    # As typed, whatever YAML would make of it.
    for text in ("", "# ", "[doc] ", "Instruct: a\nQuery:", "5e1"):
        assert load_recipe(recipe_file(GOOD), ["--prompts.query", text]).prompts.query == text
    assert load_recipe(recipe_file(GOOD), ["--model.revision", "1234567"]).model.revision == "1234567"
    assert load_recipe(recipe_file(GOOD), ["--prompts.query", "null"]).prompts.query is None
    assert load_recipe(recipe_file(GOOD), ["--train.learning_rate", "3e-4"]).train.learning_rate == 3e-4
    with pytest.raises(RecipeError, match=r"--train\.steps: train\.steps: .*integer.*'many'"):
        load_recipe(recipe_file(GOOD), ["--train.steps", "many"])
    with pytest.raises(RecipeError, match=r"--train\.setps: train\.setps: unknown key\. Did you mean 'steps'"):
        load_recipe(recipe_file(GOOD), ["--train.setps", "7"])
    for words in (["train.steps", "7"], ["--train.steps"], ["--steps", "7"]):
        with pytest.raises(RecipeError, match=r"--section\.key VALUE|--train\.steps VALUE"):
            parse_overrides(words)


def test_an_owner_checks_its_section(recipe_file):
    class Torch(Section):
        device: str = "auto"
        stage: int = Field(0, ge=0, le=3)

    assert load_recipe(recipe_file(GOOD), owners={"torch": Torch}).torch == {"device": "cpu", "stage": 0}
    with pytest.raises(RecipeError, match=r"recipe\.yaml:13: torch\.devise: unknown key\. Did you mean 'device'"):
        load_recipe(recipe_file(GOOD.replace("device:", "devise:")), owners={"torch": Torch})
    # A section that nobody asked about is kept as it is.
    assert load_recipe(recipe_file(GOOD.replace("device:", "devise:"))).torch == {"devise": "cpu"}


def test_what_decides_the_weights(recipe_file):
    base = load_recipe(recipe_file(GOOD))
    for key in ("train.output", "data.path", "model.name", "torch.parity_cosine"):
        assert load_recipe(recipe_file(GOOD), {key: "elsewhere"}).deciding() == base.deciding()
    assert load_recipe(recipe_file(GOOD), {"train.seed": 43}).deciding() != base.deciding()


SEVERAL = GOOD.replace(
    "  path: here\n",
    """  datasets:
    - path: one
      repeat: 2
    - path: two
      split: dev
      negatives: 0
      limit: 100
      query_prompt: "find: "
  negatives: 3
  split: mined
""",
)


def test_several_datasets(recipe_file):
    data = load_recipe(recipe_file(SEVERAL)).data
    first, second = data.listed()
    assert (first.path, first.split, first.negatives, first.repeat, first.limit) == ("one", "mined", 3, 2, None)
    assert (second.path, second.split, second.negatives, second.limit) == ("two", "dev", 0, 100)
    assert second.query_prompt == "find: "
    (alone,) = load_recipe(recipe_file(GOOD)).data.listed()
    assert (alone.path, alone.split, alone.negatives, alone.weight) == ("here", "train", 7, None)


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ("    - path: one", "    - pth: one", 8, ["data.datasets.0.pth", "unknown key", "'path'"]),
        ("      limit: 100", "      limit: 0", 13, ["data.datasets.1.limit", "greater than or equal to 1", "found 0"]),
        ("      limit: 100", "      weight: 2", 13, ["data.datasets.1.weight", "no use with mixing: proportional"]),
        ("  negatives: 3", "  mixing: weighted", 8, ["data.datasets.0.weight", "missing for mixing: weighted"]),
        ("  negatives: 3", "  mixing: round_robin", 9, ["data.datasets.0.repeat", "no use with mixing: round_robin"]),
        ("  negatives: 3", "  mixing: temperature", 6, ["data.mixing_temperature", "missing for mixing: temperature"]),
        ("  negatives: 3", "  mixing_temperature: 2", 15, ["data.mixing_temperature", "no use with mixing: prop"]),
        ("  negatives: 3", "  mixing: wieghted", 15, ["data.mixing", "'wieghted'"]),
        ("  negatives: 3", "  path: here", 15, ["data.path", "exactly one of path and datasets"]),
        ("  negatives: 3", "  batches: one", 15, ["data.batches", "'one'"]),
        ("      repeat: 2", "      repeat: 0", 9, ["data.datasets.0.repeat", "greater than 0"]),
    ],
)
def test_errors_in_a_list_have_an_address(recipe_file, old, new, line, words):
    path = recipe_file(SEVERAL.replace(old, new))
    refused(path, line, words)


def test_weights(recipe_file):
    text = SEVERAL.replace("      repeat: 2", "      weight: 0").replace("limit: 100", "weight: 0.5")
    weighted = text.replace("  negatives: 3", "  mixing: weighted")
    assert [one.weight for one in load_recipe(recipe_file(weighted)).data.listed()] == [0, 0.5]
    with pytest.raises(RecipeError, match=r"data\.datasets\.0\.weight: all weights are 0"):
        load_recipe(recipe_file(weighted), {"data.datasets.1.weight": 0})
    with pytest.raises(RecipeError, match=r"data\.datasets: missing for mixing: weighted"):
        load_recipe(recipe_file(GOOD), {"data.mixing": "weighted"})


def test_overrides_in_a_list(recipe_file):
    source = load_recipe(recipe_file(SEVERAL)).to_dict()
    changed = load_recipe(source, ["--data.datasets.1.limit", "7", "--data.datasets.0.path=three"])
    assert [(one.path, one.limit) for one in changed.data.listed()] == [("three", None), ("two", 7)]
    assert source["data"]["datasets"][0]["path"] == "one"  # the caller's mapping is left as it was
    assert load_recipe(source, {"data.datasets": None, "data.path": "x"}).data.listed()[0].path == "x"
    for number in ("2", "-1", "one"):
        with pytest.raises(RecipeError, match=rf"--data\.datasets\.{number}\.limit: found '{number}'; .* below 2"):
            load_recipe(source, {f"data.datasets.{number}.limit": 7})
    with pytest.raises(RecipeError, match=r"--data\.datasets\.1\.limit: data\.datasets\.1\.limit: .*integer"):
        load_recipe(source, ["--data.datasets.1.limit", "many"])


def test_what_decides_the_weights_of_several_datasets(recipe_file):
    base = load_recipe(recipe_file(SEVERAL))
    assert load_recipe(base.to_dict()).deciding() == base.deciding()
    assert load_recipe(base.to_dict(), {"data.datasets.0.path": "elsewhere"}).deciding() == base.deciding()
    changed = load_recipe(base.to_dict(), {"data.datasets.0.repeat": 3}).deciding()
    assert {key for key in changed if changed[key] != base.deciding()[key]} == {"data.datasets.0.repeat"}
    assert "data.datasets" not in load_recipe(recipe_file(GOOD)).deciding()


def test_a_plan_of_a_recipe(recipe_file, tiny_data):
    from teva_data.plan import BatchPlan

    text = GOOD.replace("path: here", f"path: {tiny_data}").replace("steps: 5", "steps: 5\n  batch_size: 6\n  seed: 9")
    alone = BatchPlan.from_recipe(load_recipe(recipe_file(text)))
    assert (alone.batch_size, alone.seed, alone.size, alone.parts[0].split) == (6, 9, 40, "train")
    text = f"""
model: {{name: some/model}}
data:
  datasets:
    - {{path: {tiny_data}, weight: 1, limit: 10}}
    - {{path: {tiny_data}, split: test, weight: 3, negatives: 1, document_prompt: "doc: "}}
  mixing: weighted
  batches: one_dataset
  negative_sampling: best
train: {{output: out, epochs: 1, batch_size: 4}}
"""
    plan = BatchPlan.from_recipe(load_recipe(recipe_file(text)))
    batches = [plan.batch(step) for step in range(80)]
    assert plan.size == 18
    assert sum(batch.dataset[0] for batch in batches) == pytest.approx(60, abs=4)
    for batch in batches:
        test = batch.dataset[0] == 1
        assert set(batch.document_prompts) == {"doc: " if test else None}
        assert ((batch.groups >= 0).sum(axis=1) <= (2 if test else 8)).all()
        for query, row in zip(batch.queries, batch.groups, strict=True):
            taken = [batch.documents[column].docid for column in row[1:] if column >= 0]
            assert taken == list(query.negative_document_ids[: len(taken)])


LOSS = GOOD.replace(
    "train:\n",
    """loss:
  temperature: 0.05
  directions: [query_to_document, query_to_query]
  distillation: kl
  distillation_weight: 0.5
  matryoshka_dims: [64, 128]
  matryoshka_weights: [1, 0.5]
  options:
    tile: 256
train:
""",
)


def test_the_loss_section(recipe_file):
    recipe = load_recipe(recipe_file(LOSS))
    assert recipe.loss.directions == ["query_to_document", "query_to_query"]
    assert (recipe.loss.matryoshka_dims, recipe.loss.matryoshka_weights) == ([64, 128], [1, 0.5])
    assert recipe.loss.options == {"tile": 256}
    assert load_recipe(recipe.to_dict()).deciding() == recipe.deciding()
    assert recipe.deciding()["loss.options.tile"] == 256
    words = ["--loss.matryoshka_dims", "32, 64", "--loss.directions=query_to_document", "--loss.options.margin", "3"]
    changed = load_recipe(recipe_file(LOSS), words).loss
    assert (changed.matryoshka_dims, changed.directions) == ([32, 64], ["query_to_document"])
    assert changed.options == {"tile": 256, "margin": "3"}
    assert load_recipe(recipe_file(GOOD), {"loss.options.any": 1}).loss.options == {"any": 1}


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ("  distillation: kl", "  distilation: kl", 11, ["loss.distilation", "unknown key", "'distillation'"]),
        ("  distillation: kl", "  distillation: infonce", 11, ["loss.distillation", "the same as name"]),
        ("  distillation: kl", "  weight: 1", 12, ["loss.distillation_weight", "of no use without distillation"]),
        ("[64, 128]", "[64, 64]", 13, ["loss.matryoshka_dims", "given twice"]),
        ("[64, 128]", "[64, 0]", 13, ["loss.matryoshka_dims.1", "greater than or equal to 1"]),
        ("[64, 128]", "[64, many]", 13, ["loss.matryoshka_dims.1", "'many'"]),
        ("[64, 128]", "[64]", 14, ["loss.matryoshka_weights", "expected 1, one for each"]),
        ("  matryoshka_dims: [64, 128]\n", "", 13, ["loss.matryoshka_weights", "without matryoshka_dims"]),
        ("[query_to_document, query_to_query]", "[query_to_query]", 10, ["query_to_document is missing"]),
        ("query_to_query]", "query_to_document]", 10, ["loss.directions", "given twice"]),
        ("query_to_query]", "sideways]", 10, ["loss.directions.1", "'sideways'"]),
        ("temperature: 0.05", "temperature: 0.005\n  learn_temperature: true", 9, ["loss.temperature", "below 0.01"]),
        ("    tile: 256", "    tile: 256\n    tile: 3", 17, ["loss.options.tile", "given twice"]),
        ("temperature: 0.05", "false_negative_ratio: 0", 9, ["loss.false_negative_ratio", "greater than 0"]),
    ],
)
def test_errors_in_the_loss_section_have_an_address(recipe_file, old, new, line, words):
    path = recipe_file(LOSS.replace(old, new))
    refused(path, line, words)


def test_options_are_checked_by_whom_they_belong_to():
    class Options(Section):
        hardness: float = Field(1.0, gt=0)

    assert check_section(Options, {"hardness": "2"}, "loss.options").hardness == 2
    with pytest.raises(RecipeError, match=r"loss\.options\.hardnes: unknown key\. Did you mean 'hardness'"):
        check_section(Options, {"hardnes": 2}, "loss.options")
    with pytest.raises(RecipeError, match=r"loss\.options\.hardness: .*greater than 0; found -1"):
        check_section(Options, {"hardness": -1}, "loss.options")


def test_a_described_default_is_the_default():
    for section in (LossSection, DataSection, TrainSection):
        rows = {key: default for key, default, _ in describe(section, "it") if default != "required"}
        for key, default in rows.items():
            name = key.removeprefix("it.")
            expected = section.model_fields[name].get_default(call_default_factory=True, validated_data={})
            found = yaml.safe_load(default) if default else None
            assert (float(found) if isinstance(expected, float) else found) == expected
