"""Frozen configuration models, read from YAML with ``path=value`` overrides; unknown keys are refused by name."""

import difflib
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from dreamer_ray.errors import UserError


class Config(BaseModel):
    """Base of all configurations: frozen, no unknown keys, no silent conversion between types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    def fingerprint(self) -> str:
        """First 16 hex digits of the SHA-256 of the canonical JSON: equal configs have equal fingerprints."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


C = TypeVar("C", bound=BaseModel)


def load_config(model: type[C], path: str | Path, overrides: Sequence[str] = ()) -> C:
    """Reads the YAML file at ``path`` and applies overrides such as ``dynamics.width=128`` (values are YAML).

    Raises ``UserError`` naming the file, the dotted path, the value and the nearest valid key.
    """
    path = Path(path)
    try:
        values = yaml.safe_load(path.read_text())
    except OSError as error:
        raise UserError(f"recipe {path}: cannot be read ({error.strerror}); give the path of a YAML file such as configs/crafter/tiny.yaml") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"recipe {path}: not valid YAML: {error}") from error
    if not isinstance(values, dict):
        raise UserError(f"recipe {path}: holds {type(values).__name__}, expected a mapping of sections such as 'data:' and 'tokenizer:'")
    for override in overrides:
        _apply(values, override)
    return parse_config(model, values, str(path))


def parse_config(model: type[C], values: Any, source: str) -> C:
    """Validates ``values`` as ``model``; ``source`` names their origin in the error message."""
    try:
        return model.model_validate_json(json.dumps(values))
    except (TypeError, ValueError) as error:
        if not isinstance(error, ValidationError):
            raise UserError(f"{source}: holds a value that JSON cannot express ({error})") from error
        lines = [_explain(model, problem) for problem in error.errors()]
        raise UserError(f"{source}: " + "; ".join(lines)) from None


def _apply(values: dict, override: str) -> None:
    path, equals, text = override.partition("=")
    if not equals or not path:
        raise UserError(f"override {override!r}: expected path=value, such as dynamics.width=128")
    *parents, leaf = path.split(".")
    for depth, parent in enumerate(parents):
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            raise UserError(f"override {override!r}: {'.'.join(parents[: depth + 1])} is a value, not a section")
    try:
        values[leaf] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"override {override!r}: the value is not valid YAML") from error


def _explain(model: type[BaseModel], problem: Any) -> str:
    place = ".".join(str(part) for part in problem["loc"]) or "(top level)"
    if problem["type"] == "extra_forbidden":
        names = list(_keys(model))
        leaf = place.rsplit(".", 1)[-1]
        near = difflib.get_close_matches(place, names, 1, 0.6) or [n for n in names if n.rsplit(".", 1)[-1] in difflib.get_close_matches(leaf, [n.rsplit(".", 1)[-1] for n in names], 1, 0.6)]
        hint = f"; did you mean {near[0]}?" if near else ""
        return f"unknown key {place}{hint}"
    if problem["type"] == "missing":
        return f"missing key {place}"
    return f"{place} = {problem['input']!r}: {problem['msg'][0].lower() + problem['msg'][1:]}"


def _keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        yield prefix + name
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from _keys(inner, f"{prefix}{name}.")
