"""What the documents say of the code is so; running their commands is ``tests/slow/test_docs.py``."""

from __future__ import annotations

import ast
import contextlib
import functools
import importlib
import io
import json
import re
import subprocess
import sys
import tomllib
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import yaml
from tests.docs_blocks import COMMANDS, DOCS, ROOT, blocks, commands, exports, pages

BLOCKS = [block for page in pages() for block in blocks(page)]


def test_the_pages_have_blocks_of_every_kind():
    assert {block.mark for block in BLOCKS} == {"", "setup", "notest"}
    assert all(block.why for block in BLOCKS if block.mark == "notest")
    assert {block.language for block in BLOCKS} <= {"sh", "python", "yaml", "toml", "text", "json", "mermaid"}


def test_marks_of_blocks_are_spelt_right():
    for page in pages():
        marks = re.findall(r"^<!-- *(?:setup|no-?test)\b", page.read_text(), flags=re.MULTILINE)
        assert len(marks) == sum(1 for block in blocks(page) if block.mark), page


def test_a_page_names_what_its_commands_use():
    """``$NAME`` comes from the page's setup block, or from a machine that sets it."""
    for page in pages():
        known = {name for block in blocks(page) if block.mark == "setup" for name in exports(block)}
        for block in blocks(page):
            if block.language == "sh" and block.mark != "notest":
                used = set(re.findall(r"\$\{?([A-Z]\w*)", block.text))
                assert used <= known | set(re.findall(r"(?:for|export) (\w+)", block.text)), block.address


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "python"], ids=lambda b: b.address)
def test_python_parses(block):
    ast.parse(block.text)


@functools.cache
def help_of(command: str, *words: str) -> str:
    (point,) = entry_points(group="console_scripts", name=command)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), pytest.raises(SystemExit) as stopped:
        point.load()([*words, "--help"])
    # An unknown verb gives the help of the whole command.
    assert stopped.value.code == 0
    assert " ".join(("usage:", command, *words)) in printed.getvalue(), f"{command} has no verb {words}"
    return printed.getvalue()


def check_command(words: list[str]) -> None:
    """Verb and options exist, a recipe that ships is named rightly, and the keys that replace its own are valid."""
    command, *rest = words
    if not rest or rest[0].startswith("-"):
        return
    verb, *rest = rest
    text = help_of(command, verb)
    options = [word.partition("=")[0] for word in rest if word.startswith("--")]
    for option in options:
        if "." not in option:
            assert re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", text), f"{command} {verb}: no option {option}"
    overrides = [option for option in options if "." in option]
    if overrides or (verb in ("train", "plan") and command in ("teva-torch", "teva-jax")):
        check_recipe(command, rest)


def check_recipe(command: str, words: list[str]) -> None:
    from teva_data.commandline import split_overrides

    trainer = importlib.import_module(command.replace("-", "_"))
    rest, overrides = split_overrides(words)
    recipe = next((word for word in rest if not word.startswith("-")), None)
    if recipe is None or recipe.startswith("$") or "/" in recipe or recipe.endswith(".yaml") or recipe.isupper():
        recipe = next(iter(trainer.shipped()))  # a recipe of the reader's own: the keys are checked on another
    pairs = [word for word in overrides if "$" not in word]
    trainer.read_recipe(recipe, pairs if len(pairs) == len(overrides) else [])


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(DOCS)))
def test_commands_that_are_not_run_exist(page):
    for block in blocks(page):
        if block.language == "sh" and block.mark == "notest":
            for words in commands(block.text):
                try:
                    check_command(words)
                except BaseException as error:
                    error.add_note(f"{block.address}: {' '.join(words)}")
                    raise


def test_a_command_that_does_not_exist_is_seen():
    for words in ("teva-infer encode M D --outputs x", "teva-torch train repllama-llama31-8b --train.stepz 3",
                  "teva-data turn x", "teva-torch train no-such-recipe --train.steps 3"):  # fmt: skip
        with pytest.raises((Exception, pytest.fail.Exception)):
            check_command(words.split())


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "yaml"], ids=lambda b: b.address)
def test_recipes_in_pages_are_valid(block):
    """A part of a recipe is valid on a minimal one; comments of editors are left alone."""
    from teva_torch import read_recipe

    part = yaml.safe_load(block.text)
    base = {"model": {"name": "m", "pooling": "mean"}, "data": {"path": "d"}, "train": {"output": "o", "steps": 1}}
    whole = {**base, **{key: {**base.get(key, {}), **(value or {})} for key, value in part.items() if key != "schema"}}
    if "datasets" in whole["data"]:
        del whole["data"]["path"]
    if "epochs" in whole["train"] and "steps" not in part.get("train", {}):
        del whole["train"]["steps"]
    read_recipe(whole)


def test_claims_that_pages_name_exist():
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.claims", "--list"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    known = set(re.findall(r"[\w-]+", done.stdout))
    texts = [page.read_text() for page in (*pages(), ROOT / "README.md")]
    named = {name for text in texts for name in re.findall(r"benchmarks\.claims ([a-z]\w+)", text)}
    assert len(named) >= 8
    assert named <= known, named - known


def test_extras_that_pages_name_exist():
    known = {
        f"{file.parent.name}[{extra}]"
        for file in (ROOT / "packages").glob("*/pyproject.toml")
        for extra in tomllib.loads(file.read_text())["project"].get("optional-dependencies", {})
    }
    texts = [page.read_text() for page in (*pages(), ROOT / "README.md", *(ROOT / "packages").glob("*/README.md"))]
    named = {
        f"{package}[{extra}]"
        for text in texts
        for package, extras in re.findall(r"(teva-\w+)\[([\w,-]+)\]", text)
        for extra in extras.split(",")
    }
    assert len(named) >= 15
    assert named <= known, named - known


def test_the_table_of_recipes_is_current():
    done = subprocess.run([sys.executable, ".ci/recipe_table.py", "--check"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def recipe_keys() -> set[str]:
    from teva_data import recipe as shared
    from teva_data.sections import describe
    from teva_jax import recipe as jax
    from teva_torch import recipe as torch

    sections = {
        "model": shared.ModelSection, "prompts": shared.PromptsSection, "data": shared.DataSection,
        "data.datasets.N": shared.DatasetSection, "loss": shared.LossSection, "train": shared.TrainSection,
        "torch": torch.TorchSection, "jax": jax.JaxSection,
        "torch.lora": torch.LoraSection, "jax.lora": jax.LoraSection,
    }  # fmt: skip
    return {key for name, kind in sections.items() for key, _, _ in describe(kind, name)}


@pytest.mark.parametrize("page", ["tevatron.md", "sentence-transformers.md"])
def test_what_a_migration_names_of_ours_exists(page):
    """In tables: `section.key`, `--option` of the command that the same cell names, `teva-x verb`."""
    cells = [
        cell
        for line in (DOCS / "migrate" / page).read_text().splitlines()
        if line.startswith("|")
        for cell in line.split("|")[2:]
    ]
    keys, known = 0, recipe_keys()
    for code in re.findall(r"`([^`]+)`", " ".join(cells)):
        for key in re.findall(r"(?<![\w.])(?:--)?((?:model|prompts|data|loss|train|torch|jax)\.[a-z_N.]+\w)", code):
            assert key in known, f"{page}: {key}"
            keys += 1
        for words in commands(code) if code.split()[0] in COMMANDS else []:
            check_command(words)
    assert keys >= 10


def test_every_flag_of_tevatron_has_a_row():
    text = (DOCS / "migrate" / "tevatron.md").read_text()
    rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("|")]
    named = set(re.findall(r"`--(\w+)`", " ".join(rows)))
    assert named >= FLAGS, FLAGS - named


# `retriever/arguments.py` and `search.py` of Tevatron (v2), and what `arguments.py` of v1 has under other names.
_FLAGS = """
model_name_or_path config_name tokenizer_name cache_dir model_revision pooling normalize temperature lora
lora_name_or_path lora_r lora_alpha lora_dropout lora_target_modules dtype attn_implementation untie_encoder
is_bidirectional pooling_strategy dataset_name dataset_config dataset_path dataset_split dataset_cache_dir
corpus_name corpus_config corpus_path corpus_split train_yaml assets_path dataset_number_of_shards
dataset_shard_index train_group_size positive_passage_no_shuffle negative_passage_no_shuffle encode_is_query
encode_output_path query_max_len passage_max_len query_prefix passage_prefix passage_field_separator
append_eos_token add_special_tokens pad_to_multiple_of num_proc encode_text encode_image encode_audio
encode_video padding_side warmup_ratio grad_cache gc_q_chunk_size gc_p_chunk_size distil_temperature
query_reps passage_reps batch_size depth save_ranking_to save_text quiet shard_search gpu_float32 cpu_search
add_pooler projection_in_dim projection_out_dim negatives_x_device train_dir encode_in_path encoded_save_path
train_n_passages q_max_len p_max_len encode_is_qry encode_num_shard encode_shard_index target_model_path
dataset_proc_num
"""
FLAGS = set(_FLAGS.split())


def test_messages_of_the_troubleshooting_page_are_in_the_code():
    """A heading quotes a message; its fixed words, in order, stand in one file of ours."""
    text = (DOCS / "troubleshooting.md").read_text()
    quoted = re.findall(r"^### `(.+)`$", text, flags=re.MULTILINE)
    assert len(quoted) >= 20
    assert len(set(quoted)) == len(quoted)
    sources = [joined(file) for file in sorted((ROOT / "packages").glob("*/src/**/*.py"))]
    for message in quoted:
        parts = [part.strip() for part in re.split(r"…|\.\.\.", message) if part.strip()]
        pattern = re.compile(r"[^\0]{0,400}?".join(map(re.escape, parts)))
        assert any(pattern.search(source) for source in sources), f"no message of ours reads: {message}"


def joined(file: Path) -> str:
    """A file's strings, neighbours joined as Python joins them, values as ``…``."""
    found = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.JoinedStr):
            found.append("".join(str(v.value) if isinstance(v, ast.Constant) else "…" for v in node.values))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.append(node.value)
    return "\n\0".join(found)


def test_the_schema_of_recipes_takes_what_ships_and_refuses_what_does_not_exist():
    import jsonschema

    import teva_jax
    import teva_torch

    for trainer in (teva_torch, teva_jax):
        schema = json.loads(recipes_schema(trainer.__name__))
        jsonschema.Draft202012Validator.check_schema(schema)
        check = jsonschema.Draft202012Validator(schema).validate
        shipped = trainer.shipped()
        assert shipped
        for file in shipped.values():
            recipe = yaml.safe_load(file.read_text())
            check(recipe)
            for section, key in (("train", "stepz"), ("jax" if trainer is teva_jax else "torch", "strategi")):
                wrong = {**recipe, section: {**recipe.get(section, {}), key: 1}}
                with pytest.raises(jsonschema.ValidationError, match=key):
                    check(wrong)


def recipes_schema(package: str) -> str:
    (point,) = entry_points(group="console_scripts", name=package.replace("_", "-"))
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert point.load()(["recipes", "schema"]) == 0
    return printed.getvalue()
