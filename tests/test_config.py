"""Recipes: what is read, and how every mistake is named."""

from pathlib import Path

import pytest
from pydantic import Field

from dreamer_ray.config import Config
from dreamer_ray.config_file import load_config, nearest, parse_config
from dreamer_ray.errors import UserError


class Model(Config):
    width: int = Field(gt=0)
    rate: float = 0.1
    kind: str = "none"


class Section(Config):
    model: Model
    steps: int = 5


class Whole(Config):
    name: str
    tokenizer: Section
    extra: Model | None = None
    parts: tuple[Model, ...] = ()


GOOD = "name: a\ntokenizer: {model: {width: 8}, steps: 3}\n"


@pytest.fixture
def recipe(tmp_path):
    def write(text: str) -> Path:
        path = tmp_path / "recipe.yaml"
        path.write_text(text)
        return path

    return write


def message(path, *overrides) -> str:
    with pytest.raises(UserError) as caught:
        load_config(Whole, path, overrides)
    assert "\n" not in str(caught.value).strip() or "YAML" in str(caught.value)
    return str(caught.value)


def test_overrides_are_yaml_values_at_dotted_paths(recipe):
    read = load_config(Whole, recipe(GOOD), ["tokenizer.model.width=16", "tokenizer.model.rate=2e-3", "name=b", "extra.width=1"])
    assert (read.tokenizer.model.width, read.tokenizer.model.rate, read.name) == (16, 0.002, "b")
    assert read.extra == Model(width=1)


def test_overrides_change_entries_of_lists_by_number_and_add_one_behind_the_last(recipe):
    path = recipe(GOOD + "parts: [{width: 1}, {width: 2}]\n")
    read = load_config(Whole, path, ["parts.1.width=5", "parts.2={width: 3, kind: a}", "parts.3.width=4"])
    assert [part.width for part in read.parts] == [1, 5, 3, 4]
    assert read.parts[2].kind == "a"
    for entry in ("4.width", "x.width", "-1"):
        assert "is no entry of a list of 2; 0 is the first, 2 adds one" in message(path, f"parts.{entry}=1")
    assert "parts.1 is a value, not a section" in message(path, "parts.1=7", "parts.1.width=2")


@pytest.mark.parametrize("text", ["1e-3", "1.5e-3", "2.0E4", "+1e3"])
def test_numbers_with_an_exponent_are_numbers(recipe, text):
    assert load_config(Whole, recipe(GOOD), [f"tokenizer.model.rate={text}"]).tokenizer.model.rate == float(text)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("tokenizer.model.widht=3", ["unknown key tokenizer.model.widht", "did you mean tokenizer.model.width?"]),
        ("tokenizer.stepz=3", ["did you mean tokenizer.steps?"]),
        ("extra.widht=3", ["did you mean extra.width?"]),
        ("tokeniser.steps=3", ["unknown key tokeniser", "did you mean tokenizer?"]),
        ("width=3", ["did you mean extra.width?"]),
        ("zzz=1", ["unknown key zzz"]),
        ("tokenizer.model.width=abc", ["tokenizer.model.width = 'abc'", "valid integer"]),
        ("tokenizer.model.width=2.5", ["tokenizer.model.width = 2.5", "valid integer"]),
        ("tokenizer.model.width=0", ["tokenizer.model.width = 0", "greater than 0"]),
        ("tokenizer.steps=true", ["tokenizer.steps = True"]),
        ("tokenizer.model.rate=.nan", ["tokenizer.model.rate", "finite"]),
        ("tokenizer.model.kind=5", ["tokenizer.model.kind = 5", "valid string"]),
        ("name.x=5", ["name is a value, not a section"]),
        ("tokenizer.model", ["expected path=value"]),
        ("tokenizer.model=[", ["not valid YAML"]),
        ("tokenizer=3", ["tokenizer = 3"]),
        ("name=2020-01-01", ["neither text, number"]),
    ],
)
def test_a_wrong_override_is_named_with_its_place_and_remedy(recipe, override, words):
    found = message(recipe(GOOD), override)
    for word in words:
        assert word in found


def test_a_missing_key_is_named(recipe):
    assert "missing key tokenizer.model.width" in message(recipe("name: a\ntokenizer: {model: {}}\n"))


@pytest.mark.parametrize("text", ["a: [1\n", "- 1\n", "", "name: a\nname: b\n", "\x00"])
def test_a_file_that_is_not_a_mapping_is_refused(recipe, text):
    assert "recipe.yaml" in message(recipe(text))


def test_a_missing_file_is_named(tmp_path):
    assert "none.yaml: cannot be read (No such file" in message(tmp_path / "none.yaml")
    assert "Is a directory" in message(tmp_path)


def test_a_key_that_stands_twice_is_refused(recipe):
    assert "the key steps stands twice" in message(recipe("name: a\ntokenizer: {model: {width: 1}, steps: 1, steps: 2}"))


def test_fingerprints_tell_configs_apart():
    first = Section(model=Model(width=1))
    assert first.fingerprint() == Section(steps=5, model=Model(rate=0.1, width=1)).fingerprint()
    assert first.fingerprint() != Section(model=Model(width=2)).fingerprint()


def test_configs_are_frozen_and_survive_json():
    config = Section(model=Model(width=1, rate=1.0))
    with pytest.raises(ValueError, match="frozen"):
        config.steps = 3
    assert parse_config(Section, config.model_dump(mode="json"), "test") == config


def test_the_nearest_name_is_looked_for_in_the_same_section_first():
    known = ["agent", "agent.fit", "agent.fit.steps", "dynamics", "dynamics.fit", "dynamics.fit.steps", "dynamics.width"]
    assert nearest("dynamics.fit.step", known) == "dynamics.fit.steps"
    assert nearest("agent.width", known) == "dynamics.width"
    assert nearest("a.model.wid", ["a.model.width", "b.widt"]) == "a.model.width"
    assert nearest("dynamics.zzz", known) is None
