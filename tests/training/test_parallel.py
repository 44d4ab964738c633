"""Several ranks give the gradients, statistics and weights of one process on the whole batch, though their shares are unequal."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from dreamer_ray.training.checkpoint import Checkpoint, latest_checkpoint
from dreamer_ray.training.parallel import data_parallel, is_first_rank

WORKER = Path(__file__).with_name("rank_worker.py")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def results(folder):
    """What one process found on the whole batch, and what each of two ranks found on its share."""
    environment = os.environ | {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    workers = [
        subprocess.Popen(
            [sys.executable, str(WORKER), str(folder), str(rank), str(world)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank, world in ((0, 1), (0, 2), (1, 2))
    ]
    try:
        for worker in workers:
            words, _ = worker.communicate(timeout=120)
            assert worker.returncode == 0, words[-3000:]
    finally:
        for worker in workers:
            worker.kill()
    one, *ranks = (load_file(folder / f"{name}.safetensors") for name in ("1-0", "2-0", "2-1"))
    return one, ranks


@pytest.mark.timeout(200)
def test_shares_of_good_actions_are_unequal(results):
    one, ranks = results
    good = [int(rank["good"]) for rank in ranks]
    assert sum(good) == int(one["good"])
    assert good[0] > 5 * good[1] > 0


@pytest.mark.timeout(200)
@pytest.mark.parametrize("phase", ["imagination", "cloning", "whole"])
def test_gradients_of_two_ranks_are_those_of_one_process(results, phase):
    one, ranks = results
    names = [name for name in one if name.startswith(f"{phase}|")]
    assert len(names) > 6
    for rank in ranks:
        assert {name for name in rank if name.startswith(f"{phase}|")} == set(names)
        for name in names:
            assert torch.allclose(rank[name], one[name], rtol=1e-4, atol=1e-6), name
    assert any(one[name].abs().max() > 1e-3 for name in names)


@pytest.mark.timeout(200)
def test_running_rms_is_that_of_the_whole_batch_on_every_rank(results):
    one, ranks = results
    assert one["cloning|weight"].min() > 0
    for rank in ranks:
        assert torch.allclose(rank["cloning|square"], one["cloning|square"], rtol=1e-5)
        assert torch.equal(rank["cloning|square"], ranks[0]["cloning|square"])


@pytest.mark.timeout(200)
def test_masked_means_count_over_all_ranks(results):
    one, ranks = results
    for rank in ranks:
        assert torch.allclose(rank["mean"], one["mean"])
        assert rank["empty"] == 0


@pytest.mark.timeout(200)
def test_the_loop_ends_with_the_same_weights_and_only_the_first_rank_writes(results):
    one, ranks = results
    names = [name for name in one if name.startswith("fit|")]
    for rank in ranks:
        assert all(torch.allclose(rank[name], one[name], rtol=1e-3, atol=1e-5) for name in names)
        assert all(torch.equal(rank[name], ranks[0][name]) for name in names)
    assert ranks[0]["records"].tolist() == [2, 3]
    assert ranks[1]["records"].tolist() == []


@pytest.mark.timeout(200)
def test_ranks_that_see_different_checkpoints_refuse_to_go_on(results):
    _, ranks = results
    assert [int(rank["apart"]) for rank in ranks] == [1, 1]


@pytest.mark.timeout(200)
def test_a_checkpoint_that_one_rank_sees_later_than_others_is_waited_for(results):
    _, ranks = results
    assert [int(rank["late"]) for rank in ranks] == [2, 2]


@pytest.mark.timeout(200)
def test_parts_on_two_ranks_have_the_gradient_of_one_process(results):
    one, ranks = results
    names = [name for name in one if name.startswith("accumulated|")]
    assert len(names) == 2
    for rank in ranks:
        assert all(torch.allclose(rank[name], one[name], rtol=1e-4, atol=1e-7) for name in names)


def _close(found: Checkpoint, wanted: Checkpoint, names=("weights", "optimizer", "ema")) -> bool:
    pairs = [(found.read(name), wanted.read(name)) for name in names]
    assert all(mine.keys() == its.keys() for mine, its in pairs)
    return all(torch.allclose(mine[key], its[key], rtol=1e-3, atol=1e-5) for mine, its in pairs for key in its)


def _go_on(folder: Path) -> str:
    """What one process says that goes on to step 4."""
    return subprocess.run([sys.executable, str(WORKER), str(folder), "go on"], capture_output=True, text=True, check=False).stderr


@pytest.mark.timeout(200)
def test_ranks_with_a_share_each_of_the_weights_train_as_one_process(results, folder):
    one, two = (latest_checkpoint(folder / f"sharded-{world}") for world in (1, 2))
    assert {f"weights-0000{rank}-of-00002.safetensors" for rank in range(2)} < set(two.checksums)
    sizes = [sum(value.numel() for value in load_file(two.path / f"ema-0000{rank}-of-00002.safetensors").values()) for rank in range(2)]
    assert sizes[1] <= sizes[0] < 1.2 * sizes[1]
    assert one.step == two.step == 3
    assert _close(two, one)
    two.verify()


@pytest.mark.timeout(200)
def test_a_checkpoint_of_several_ranks_goes_on_on_another_number(results, folder, tmp_path):
    shutil.copytree(folder / "sharded-2", tmp_path / "two")
    shutil.copytree(folder / "sharded-1", tmp_path / "one")
    for name in ("one", "two"):
        assert _go_on(tmp_path / name) == ""
    one, two = (latest_checkpoint(tmp_path / name) for name in ("one", "two"))
    assert one.step == two.step == 4
    assert _close(two, one)


@pytest.mark.timeout(200)
def test_a_lost_part_of_a_checkpoint_is_named(results, folder, tmp_path):
    shutil.copytree(folder / "sharded-2", tmp_path / "two")
    (latest_checkpoint(tmp_path / "two").path / "optimizer-00001-of-00002.safetensors").unlink()
    assert re.search(r"UserError: .*optimizer-00001-of-00002\.safetensors: cannot be read.*delete this folder", _go_on(tmp_path / "two"))


@pytest.mark.timeout(200)
def test_ranks_that_share_weights_pass_equally_often_whoever_has_bootstrap_rows(results, folder):
    checkpoint = latest_checkpoint(folder / "bootstrapped-2")
    assert checkpoint is not None
    assert checkpoint.step == 8
    assert all(bool(value.isfinite().all()) for value in checkpoint.read("weights").values())


def test_one_process_is_left_alone():
    module = nn.Linear(2, 2)
    assert data_parallel(module, torch.device("cpu")) is module
    assert is_first_rank()
