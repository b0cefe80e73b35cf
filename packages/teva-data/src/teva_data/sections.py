"""Sections of settings: read from YAML, checked, and what is wrong told with its line or option.

The recipe's sections are made of these, and so are the options of a loss, a trainer or an extension.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import PydanticCustomError

from .errors import RecipeError, nearest, shorten

_MAPPINGS = ("dict_type", "model_type", "model_attributes_type")
"""Pydantic's words for a value that was to be a mapping."""

_Kind = TypeVar("_Kind", bound="Section")


class Section(BaseModel):
    """Base of all sections: unknown keys are errors, values have the types declared, nothing changes later."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)


def check_section(kind: type[_Kind], value: Mapping[str, Any], key: str) -> _Kind:
    """A section that its owner checks later than the recipe is read, such as the options of a loss.

    Args:
        kind: its type.
        value: what the recipe has.
        key: where it stands in the recipe, e.g. ``loss.options``.

    Raises:
        RecipeError: with the key, what was found and what was expected.
    """
    checked: _Kind = validated(kind, dict(value), tuple(key.split(".")), "recipe", {})
    return checked


def expect(condition: bool, key: str, problem: str) -> None:
    """For validators of a whole section: an error at one of its keys."""
    if not condition:
        raise PydanticCustomError("at_key", "{problem}", {"key": key, "problem": problem})


def describe(section: type[Section], prefix: str) -> list[tuple[str, str, str]]:
    """(key, default, description) of each key of a section, for ``--help`` and for recipes written with comments."""
    rows = []
    for name, field in section.model_fields.items():
        value = field.get_default(call_default_factory=True, validated_data={})
        default = "required" if field.is_required() else "" if value is None else str(value)
        rows.append((f"{prefix}.{name}", default, field.description or ""))
    return rows


def flatten(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with dotted keys."""
    flat: dict[str, Any] = {}
    for key, item in value.items():
        if isinstance(item, Mapping):
            flat.update(flatten(item, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = item
    return flat


def parse_overrides(words: Sequence[str]) -> dict[str, Any]:
    """``--train.steps 10`` and ``--train.steps=10`` as ``{"train.steps": "10"}``; ``null`` is None, all else text."""
    result: dict[str, Any] = {}
    queue = list(words)
    while queue:
        word = queue.pop(0)
        if not word.startswith("--") or "." not in word.split("=")[0]:
            raise RecipeError(f"{word}: found where an override was expected; write --section.key VALUE")
        key, equals, text = word[2:].partition("=")
        if not equals:
            if not queue:
                raise RecipeError(f"--{key}: no value; write --{key} VALUE")
            text = queue.pop(0)
        # As it stands: a prompt such as "query: " is no YAML. The section's types turn text into numbers.
        result[key.replace("-", "_")] = None if text == "null" else text
    return result


def replace(value: Any, key: str, item: Any) -> None:
    """Put an override into a recipe's plain values.

    Args:
        value: nested mappings and lists; changed in place. Sections that are not there are made.
        key: dotted, such as ``data.datasets.0.path``.
        item: the new value.

    Raises:
        RecipeError: the key goes through something that is no section, or names a place that a list does not have.
    """
    *parents, last = key.split(".")
    for parent in parents:
        if isinstance(value, dict) and value.get(parent) is None:
            value[parent] = {}  # a section that is left out, or null as in a resolved recipe
        child = value[parent] if isinstance(value, dict) else value[_place(value, parent, key)]
        if not isinstance(child, dict | list):
            raise RecipeError(f"--{key}: {parent} is not a section")
        value = child
    value[last if isinstance(value, dict) else _place(value, last, key)] = item


def _place(value: list[Any], number: str, key: str) -> int:
    """The place in a list that a word of a dotted key names, counted from 0."""
    if not number.isdecimal() or int(number) >= len(value):
        raise RecipeError(f"--{key}: found {number!r}; expected a number below {len(value)}, the length of the list")
    return int(number)


def deep_copy(value: Any) -> Any:
    """Nested mappings and lists as dicts and lists of their own."""
    if isinstance(value, Mapping):
        return {key: deep_copy(item) for key, item in value.items()}
    return [deep_copy(item) for item in value] if isinstance(value, list) else value


def read_yaml(path: Path) -> tuple[Any, dict[str, int]]:
    """The file's value, and the line of each dotted key."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise RecipeError(
            f"{path}: no such file. Write one with `teva-torch init --data DIR --model NAME > recipe.yaml`, or see "
            "`teva-torch recipes list`"
        ) from None
    except (UnicodeDecodeError, IsADirectoryError) as error:
        raise RecipeError(f"{path}: not a text file ({error})") from None
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RecipeError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    lines: dict[str, int] = {}
    _note_lines(path, node, "", lines)
    return value, lines


def _note_lines(path: Path, node: yaml.Node | None, prefix: str, lines: dict[str, int]) -> None:
    if isinstance(node, yaml.SequenceNode):
        for place, item in enumerate(node.value):
            lines[f"{prefix}{place}"] = item.start_mark.line + 1
            _note_lines(path, item, f"{prefix}{place}.", lines)
    if not isinstance(node, yaml.MappingNode):
        return
    for key_node, value_node in node.value:
        key, line = f"{prefix}{key_node.value}", key_node.start_mark.line + 1
        if key in lines:
            raise RecipeError(f"{path}:{line}: {key}: given twice, first in line {lines[key]}. Keep one")
        lines[key] = line
        _note_lines(path, value_node, f"{key}.", lines)


def validated(kind: type[Any], value: Any, prefix: tuple[str, ...], where: str, addresses: Mapping[str, str]) -> Any:
    """A value as a section.

    Args:
        kind: the section's type.
        value: plain values.
        prefix: where the section stands in the recipe.
        where: the recipe's file, or another word for it.
        addresses: of dotted keys: a file and line, or an option of the command line.

    Raises:
        RecipeError: all problems, a line each, with the nearest address.
    """
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        problems = [_problem(kind, problem, prefix, where, addresses) for problem in error.errors()]
        raise RecipeError("\n".join(problems)) from None


def _problem(
    kind: type[BaseModel], problem: Any, prefix: tuple[str, ...], where: str, addresses: Mapping[str, str]
) -> str:
    location = [*prefix, *(str(part) for part in problem["loc"])]
    if problem["type"] == "at_key":
        location += problem["ctx"]["key"].split(".")
    key = ".".join(location)
    # A missing key has no line of its own: its section's is the nearest.
    parents = (".".join(location[:end]) for end in range(len(location), 0, -1))
    address = next((addresses[parent] for parent in parents if parent in addresses), where)
    if problem["type"] == "extra_forbidden":
        return f"{address}: {key}: unknown key. {nearest(location[-1], _known(kind, location[len(prefix) : -1]))}"
    if problem["type"] == "missing":
        return f"{address}: {key}: missing; expected a value"
    message = problem["msg"].removeprefix("Value error, ")
    found = "" if isinstance(problem["input"], dict | BaseModel) else f"; found {shorten(problem['input'])}"
    # A word of the command line is never a mapping.
    way = f". Write --{key}.NAME VALUE for each of its keys" if problem["type"] in _MAPPINGS and found else ""
    return f"{address}: {key or 'recipe'}: {message}{found}{way if address.startswith('--') else ''}"


def _known(kind: type[BaseModel], path: Sequence[str]) -> list[str]:
    for name in path:
        if name in kind.model_fields:
            kind = _model_in(kind.model_fields[name].annotation) or kind
    return [field.alias or name for name, field in kind.model_fields.items()]


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The section that a field holds: itself, in a list, or in a choice of types."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for inner in get_args(annotation) if (found := _model_in(inner))), None)
