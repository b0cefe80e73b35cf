"""Write the table of recipes in docs/recipes.md from the recipes that ship; ``--check`` says whether it is current."""

from __future__ import annotations

import sys
from pathlib import Path

import teva_jax
import teva_torch
from teva_data import Recipe

PAGE = Path(__file__).parents[1] / "docs" / "recipes.md"
BEGIN, END = "<!-- recipes: .ci/recipe_table.py -->\n", "<!-- /recipes -->\n"


def row(name: str) -> str:
    """A recipe's line: what it is, its model, how it is trained, on what, and by which trainers."""
    trainers = [module for module in (teva_torch, teva_jax) if name in module.shipped()]
    recipe: Recipe = trainers[0].read_recipe(name)
    title = trainers[0].shipped()[name].read_text(encoding="utf-8").splitlines()[0].lstrip("# ")
    own = recipe.torch if trainers[0] is teva_torch else recipe.jax
    lora = f"LoRA {own['lora']['rank']}" if own.get("lora") else "all weights"
    train = recipe.train
    length = f"{train.steps:,} steps" if train.steps else f"{train.epochs:g} epochs"
    queries = train.batch_size * train.accumulate
    cells = [
        f"`{name}`", title, f"`{recipe.model.name}`", f"{lora}, {length}",
        f"{queries} x (1 + {recipe.data.negatives})", f"{train.learning_rate:g}", f"{recipe.loss.temperature:g}",
        ", ".join(module.__name__.replace("_", "-") for module in trainers),
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |\n"


def table() -> str:
    """The whole table."""
    names = sorted({*teva_torch.shipped(), *teva_jax.shipped()})
    head = "| recipe | what it is | model | trained | queries a step x documents each | rate | temperature | by |\n"
    return "".join([head, "|---|---|---|---|---|---|---|---|\n", *map(row, names)])


def main() -> None:
    """Write, or compare."""
    page = PAGE.read_text(encoding="utf-8")
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    made = f"{before}{BEGIN}{table()}{END}{after}"
    if sys.argv[1:] == ["--check"]:
        if made != page:
            sys.exit(f"{PAGE.name}: the table is not current. Run `python .ci/recipe_table.py`")
        return
    PAGE.write_text(made, encoding="utf-8")


if __name__ == "__main__":
    main()
