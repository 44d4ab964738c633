"""Configurations read from YAML with ``path=value`` overrides; unknown keys are refused by name."""

import difflib
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from dreamer_ray.errors import UserError

C = TypeVar("C", bound=BaseModel)


def load_config(model: type[C], path: str | Path, overrides: Sequence[str] = (), *, kind: str = "recipe") -> C:
    """Reads the YAML file at ``path`` and applies overrides such as ``dynamics.fit.steps=100`` (values are YAML).

    ``kind`` is what an error calls the file. Raises ``UserError`` naming the file, the dotted path, the value and the nearest valid key.
    """
    path = Path(path)
    try:
        values = _read_yaml(path.read_text())
    except OSError as error:
        remedy = "give the path of a YAML file such as configs/crafter/tiny.yaml"
        raise UserError(f"{kind} {path}: cannot be read ({error.strerror}); {remedy}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{kind} {path}: not valid YAML: {error}") from error
    if not isinstance(values, dict):
        raise UserError(f"{kind} {path}: holds {type(values).__name__}, expected a mapping of sections such as 'data:' and 'tokenizer:'")
    for override in overrides:
        _apply(values, override)
    return parse_config(model, values, str(path))


def parse_config(model: type[C], values: Any, source: str) -> C:
    """Validates ``values`` as ``model``; ``source`` names their origin in the error message."""
    try:
        text = json.dumps(values)
    except (TypeError, ValueError) as error:
        raise UserError(f"{source}: holds a value that is neither text, number, list nor section ({error})") from error
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        raise UserError(f"{source}: " + "; ".join(_explain(model, problem) for problem in error.errors())) from None


class _Loader(yaml.SafeLoader):
    """YAML as a recipe needs it: a key that stands twice is an error, and 1e-3 is a number, as everywhere but in YAML 1.1."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]  # pyright: ignore[reportArgumentType]
        for (key, _), value in zip(node.value, keys, strict=True):
            if keys.count(value) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"the key {value} stands twice", key.start_mark)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def _read_yaml(text: str) -> Any:
    loader = _Loader(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def _apply(values: dict, override: str) -> None:
    path, equals, text = override.partition("=")
    if not equals or not path:
        raise UserError(f"override {override!r}: expected path=value, such as dynamics.fit.steps=100")
    *parents, leaf = path.split(".")
    inner: Any = values
    for depth, parent in enumerate(parents, start=1):
        inner = inner[_place(inner, parent, override)]
        if not isinstance(inner, dict | list):
            raise UserError(f"override {override!r}: {'.'.join(parents[:depth])} is a value, not a section")
    try:
        inner[_place(inner, leaf, override)] = _read_yaml(text)
    except yaml.YAMLError as error:
        raise UserError(f"override {override!r}: the value is not valid YAML") from error


def _place(inner: dict | list, key: str, override: str) -> Any:
    """Where ``key`` is in ``inner``, made if it is not there: of a list its number, or that behind the end, where one more is added."""
    if isinstance(inner, dict):
        inner.setdefault(key, {})
        return key
    if not key.isdecimal() or int(key) > len(inner):
        raise UserError(f"override {override!r}: {key} is no entry of a list of {len(inner)}; 0 is the first, {len(inner)} adds one")
    if int(key) == len(inner):
        inner.append({})
    return int(key)


def _explain(model: type[BaseModel], problem: Any) -> str:
    place = ".".join(str(part) for part in problem["loc"]) or "(top level)"
    if problem["type"] == "extra_forbidden":
        near = nearest(place, list(_keys(model)))
        return f"unknown key {place}" + (f"; did you mean {near}?" if near else "")
    if problem["type"] == "missing":
        return f"missing key {place}"
    if problem["type"] == "value_error":
        return f"{place}: {problem['ctx']['error']}"
    return f"{place} = {_shortened(repr(problem['input']))}: {problem['msg'][0].lower() + problem['msg'][1:]}"


def nearest(path: str, known: Sequence[str]) -> str | None:
    """The dotted path among ``known`` that ``path`` was probably meant to be: first in the same section, then elsewhere."""
    section, _, leaf = path.rpartition(".")
    siblings = [name for name in known if name.rpartition(".")[0] == section]
    for names in (siblings, known):
        leaves = difflib.get_close_matches(leaf, {name.rpartition(".")[2] for name in names}, 1, 0.6)
        if found := [name for name in names if name.rpartition(".")[2] in leaves]:
            return max(found, key=lambda name: difflib.SequenceMatcher(None, path, name).ratio())
    return None


def _keys(annotation: Any, prefix: str = "") -> Iterator[str]:
    """Dotted paths of all keys below a model, also through ``Model | None`` and ``Annotated``; with a prefix, below that key."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        for name, field in annotation.model_fields.items():
            yield prefix + name
            yield from _keys(field.annotation, f"{prefix}{name}.")
        return
    for part in get_args(annotation):
        yield from _keys(part, prefix)


def _shortened(text: str, limit: int = 80) -> str:
    return text if len(text) <= limit else text[:limit] + ".."
