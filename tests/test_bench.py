"""The verb bench: what its tables say, and that they can be saved and compared."""

import argparse
import json
from pathlib import Path

import pytest
import torch

from dreamer_ray.bench.table import Bench, bench, read_bench
from dreamer_ray.cli.bench import add_parser, table
from dreamer_ray.config_file import load_config
from dreamer_ray.errors import UserError
from dreamer_ray.recipe import Recipe

TOY = Path(__file__).parents[1] / "configs" / "crafter" / "toy.yaml"


def found(kind, *overrides: str, worlds=(1, 3)) -> Bench:
    lines, threads = [], torch.get_num_threads()
    result = bench(kind, load_config(Recipe, TOY, overrides), worlds=worlds, seconds=0.01, device="cpu", report=lines.append)
    assert list(result.rates) == lines
    assert result.machine.threads == threads
    assert result.machine.operations_per_second > 1e8
    assert result.machine.bytes_per_second > 1e7
    return result


def test_engine_times_every_part_of_a_frame_with_and_without_the_commit_pass():
    rates = {rate.name: rate for rate in found("engine").rates}
    assert list(rates) == ["1 world", "1 world, no commit", "3 worlds", "3 worlds, no commit"]
    assert set(rates["3 worlds"].shares) == {"4 passes", "heads", "decode", "commit", "rest"}
    assert set(rates["3 worlds, no commit"].shares) == {"4 passes", "heads", "decode", "rest"}
    assert sum(rates["3 worlds"].shares.values()) == pytest.approx(1)
    assert min(value for part, value in rates["3 worlds"].shares.items() if part != "rest") > 0.001


def test_operations_and_bytes_of_a_frame_are_those_of_its_passes():
    def work(rate):
        seconds = 3 / rate.per_second
        return rate.operations_per_second * seconds, rate.bytes_per_second * seconds

    with_commit, without = (work(rate) for rate in found("engine", worlds=[3]).rates)
    twice = work(found("engine", "imagination.sampling_steps=8", worlds=[3]).rates[1])
    assert with_commit[1] - without[1] == pytest.approx((twice[1] - without[1]) / 4)
    assert with_commit[0] - without[0] == pytest.approx((twice[0] - without[0]) / 4, rel=0.2)  # the commit pass has the agent token too


def test_a_training_step_is_timed_by_its_parts():
    rates = found("train").rates
    assert [rate.name.split(",")[0] for rate in rates] == ["tokenizer", "dynamics", "agent"]
    for rate in rates:
        assert set(rate.shares) == {"forward", "backward", "optimizer"}
        assert sum(rate.shares.values()) == pytest.approx(1)
        assert rate.operations_per_second > 0


def test_data_is_recorded_written_and_read():
    rates = found("data", "data.crafter.length=40").rates
    assert [rate.name.split()[0] for rate in rates] == ["record", "write", "read", "read"]
    assert all(rate.per_second > 1 for rate in rates)


def test_a_saved_table_can_be_compared_and_another_one_is_refused(tmp_path):
    recipe, first = load_config(Recipe, TOY), found("engine", worlds=[1])
    file = tmp_path / "bench.json"
    file.write_text(first.model_dump_json())
    assert read_bench(file, "engine", recipe) == first
    twice = first.model_copy(update={"rates": tuple(r.model_copy(update={"per_second": 2 * r.per_second}) for r in first.rates)})
    text = table(twice, read_bench(file, "engine", recipe))
    assert text.count("2.00 x before") == 2
    assert "compared with" in text
    wider = first.model_copy(update={"rates": (first.rates[0].model_copy(update={"name": "9 worlds"}),)})
    assert "not measured before" in table(wider, first)
    with pytest.raises(UserError, match="holds a table of engine, not of train"):
        read_bench(file, "train", recipe)
    with pytest.raises(UserError, match="crafter-toy had other values"):
        read_bench(file, "engine", load_config(Recipe, TOY, ["imagination.horizon=3"]))


@pytest.mark.parametrize("text", ["", "{}", "[1]", json.dumps({"kind": "engine"})])
def test_a_file_that_is_no_table_is_refused_by_name(tmp_path, text):
    file = tmp_path / "bench.json"
    file.write_text(text)
    with pytest.raises(UserError, match=r"bench\.json"):
        read_bench(file, "engine", load_config(Recipe, TOY))
    with pytest.raises(UserError, match=r"missing\.json"):
        read_bench(tmp_path / "missing.json", "engine", load_config(Recipe, TOY))


def run(*words: object) -> None:
    """What ``dreamer-ray bench`` does, without its handlers of signals and logs."""
    parser = argparse.ArgumentParser()
    add_parser(parser.add_subparsers())
    options = parser.parse_args(["bench", "engine", str(TOY), "--seconds", "0.01", "--worlds", "2", "--threads", "1", *map(str, words)])
    options.act(options)


def test_the_command_prints_and_saves_a_table(tmp_path, capsys):
    run("--save", tmp_path / "a.json")
    first, line, *_ = capsys.readouterr().out.splitlines()
    assert first.startswith("engine of crafter-toy: ")
    assert line.startswith("2 worlds ")
    assert "frames/s" in line
    assert read_bench(tmp_path / "a.json", "engine", load_config(Recipe, TOY)).rates[0].name == "2 worlds"


@pytest.mark.parametrize(("option", "value"), [("--compare", "none.json"), ("--save", "no/such/folder/a.json"), ("--device", "cuda:9")])
def test_values_that_are_wrong_are_named(option, value):
    with pytest.raises(UserError, match=value):
        run(option, value)


@pytest.mark.parametrize("words", [("--worlds", "0"), ("--worlds", "1,x"), ("--seconds", "x"), ("--seconds", "0"), ("--threads", "-1")])
def test_numbers_that_are_wrong_end_with_2(words, capsys):
    with pytest.raises(SystemExit) as end:
        run(*words)
    assert end.value.code == 2
    assert f"{words[1].rpartition(',')[2]}: expected" in capsys.readouterr().err
