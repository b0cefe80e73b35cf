from __future__ import annotations

import pytest
from pydantic import Field

from teva_data.errors import RecipeError
from teva_data.recipe import Section, load_recipe, parse_overrides

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
        ("  steps: 5", "  steps: 5\n  epochs: 1", 8, ["exactly one of steps and epochs"]),
        ("  path: here", "  split: x", 6, ["data.path", "missing"]),
        ("  path: here", "  path: here\n  path: there", 8, ["data.path", "given twice", "line 7"]),
        ('schema: "1"', 'schema: "9"', 1, ["schema", "'9'"]),
    ],
)
def test_errors_have_an_address(recipe_file, old, new, line, words):
    path = recipe_file(GOOD.replace(old, new))
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    message = str(caught.value)
    assert f"{path}:{line}:" in message
    for word in words:
        assert word in message


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
