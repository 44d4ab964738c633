"""Checkpoints: whole or not at all, verified when read, and damage named with a remedy."""

import errno
import json
import os

import pytest
import torch

from dreamer_ray.errors import RunError, UserError
from dreamer_ray.training import checkpoint as module
from dreamer_ray.training.checkpoint import latest_checkpoint, open_checkpoint, save_checkpoint


def _tensors(value):
    return {"weights": {"a": torch.full((50, 3), float(value)), "b": torch.arange(4)}, "optimizer": {"a|step": torch.tensor(1.0)}}


def _save(folder, step, **changes):
    return save_checkpoint(folder, step, made_by={"config": {"width": 3}}, tensors=_tensors(step) | changes)


def _value(folder):
    return float(latest_checkpoint(folder).read("weights")["a"][0, 0])


def test_what_is_saved_is_read(tmp_path):
    saved, opened = _save(tmp_path, 7), latest_checkpoint(tmp_path)
    assert (opened.step, opened.made_by, opened.path) == (7, {"config": {"width": 3}}, tmp_path / "step-00000007")
    for name, values in _tensors(7).items():
        found = opened.read(name)
        assert found.keys() == values.keys()
        assert all(torch.equal(found[key], value) and found[key].dtype == value.dtype for key, value in values.items())
    assert opened.fingerprint == saved.fingerprint
    assert _save(tmp_path, 8).fingerprint != saved.fingerprint


def test_the_newest_counts_and_two_are_kept(tmp_path):
    for step in (9, 100, 11):
        _save(tmp_path, step)
    assert latest_checkpoint(tmp_path).step == 100
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["step-00000011", "step-00000100"]


def test_no_folder_is_no_checkpoint(tmp_path):
    assert latest_checkpoint(tmp_path / "nothing") is None


def test_averages_are_used_where_there_are(tmp_path):
    plain = _save(tmp_path, 1)
    assert torch.equal(plain.weights()["a"], _tensors(1)["weights"]["a"])
    averaged = _save(tmp_path, 2, ema={"a": torch.zeros(50, 3)}).weights()
    assert torch.equal(averaged["a"], torch.zeros(50, 3))
    assert torch.equal(averaged["b"], torch.arange(4))


def _truncate(path):
    file = path / "weights.safetensors"
    file.write_bytes(file.read_bytes()[:-40])


def _flip(path):
    file = path / "weights.safetensors"
    data = bytearray(file.read_bytes())
    data[-9] ^= 1
    file.write_bytes(bytes(data))


def _remove(path):
    (path / "weights.safetensors").unlink()


def _cut_manifest(path):
    file = path / "manifest.json"
    file.write_text(file.read_text()[:-30])


def _no_manifest(path):
    (path / "manifest.json").unlink()


def _edit(**changes):
    def edit(path):
        file = path / "manifest.json"
        manifest = json.loads(file.read_text()) | changes
        file.write_text(json.dumps({key: value for key, value in manifest.items() if value is not None}))

    return edit


DAMAGES = {
    "truncated": _truncate,
    "flipped": _flip,
    "missing file": _remove,
    "cut manifest": _cut_manifest,
    "no manifest": _no_manifest,
    "no step": _edit(step=None),
    "step is a word": _edit(step="many"),
    "no checksums": _edit(checksums=None),
    "checksums of nothing": _edit(checksums={}),
    "checksums are a list": _edit(checksums=[]),
    "other checksum": _edit(checksums={"weights.safetensors": "0" * 64}),
    "other format": _edit(format=99),
    "manifest is a list": lambda path: (path / "manifest.json").write_text("[]"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_named_and_the_earlier_checkpoint_stays(tmp_path, damage):
    _save(tmp_path, 1)
    broken = _save(tmp_path, 2).path
    DAMAGES[damage](broken)
    with pytest.raises(UserError, match="step-00000002"):
        latest_checkpoint(tmp_path).read("weights")
    assert float(open_checkpoint(tmp_path / "step-00000001").read("weights")["a"][0, 0]) == 1.0


def test_the_remedy_for_damage_works(tmp_path):
    _save(tmp_path, 1)
    _truncate(_save(tmp_path, 2).path)
    with pytest.raises(UserError, match="delete this folder"):
        latest_checkpoint(tmp_path).read("weights")
    module.shutil.rmtree(tmp_path / "step-00000002")
    assert _value(tmp_path) == 1.0


def test_a_crash_before_the_rename_leaves_the_old_one(tmp_path, monkeypatch):
    _save(tmp_path, 1)

    def crash(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", crash)
        with pytest.raises(KeyboardInterrupt):
            _save(tmp_path, 2)
    assert _value(tmp_path) == 1.0
    _save(tmp_path, 2)
    assert _value(tmp_path) == 2.0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000001", "step-00000002"]


@pytest.mark.parametrize("at", range(3))
def test_a_crash_between_any_two_files_leaves_the_old_one(tmp_path, monkeypatch, at):
    _save(tmp_path, 1)
    written, save_file = [], module.save_file

    def crash(tensors, path):
        written.append(path)
        if len(written) > at:
            raise KeyboardInterrupt
        save_file(tensors, path)

    monkeypatch.setattr(module, "save_file", crash)
    with pytest.raises(KeyboardInterrupt):
        _save(tmp_path, 2, ema={"a": torch.zeros(1)})
    assert _value(tmp_path) == 1.0


def test_a_writer_that_was_cut_off_mixes_nothing_into_what_its_successor_writes(tmp_path, monkeypatch):
    save_file, begun = module.save_file, []

    def between(tensors, path):
        """The first writer halts before its first file; while its successor writes the second one it writes on, and ends."""
        begun.append((tensors, path))
        if len(begun) == 1:
            _save(tmp_path, 2, weights={"a": torch.full((50, 3), 7.0)})
            raise KeyboardInterrupt
        if len(begun) == 3:
            late, place = begun[0]
            place.parent.mkdir(exist_ok=True)
            save_file(late, place)
        save_file(tensors, path)

    with monkeypatch.context() as patch:
        patch.setattr(module, "save_file", between)
        with pytest.raises(KeyboardInterrupt):
            _save(tmp_path, 2)
    assert _value(tmp_path) == 7.0
    _save(tmp_path, 3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000002", "step-00000003"]


def test_an_error_of_the_file_system_at_the_rename_is_a_failed_run(tmp_path, monkeypatch):
    _save(tmp_path, 1)

    def fail(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(RunError, match=r"step-00000002: not written, .*Input/output error"):
        _save(tmp_path, 2)
    assert _value(tmp_path) == 1.0
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


def test_a_full_disk_is_said_and_the_old_one_stays(tmp_path, monkeypatch):
    _save(tmp_path, 1)

    def full(tensors, path):
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "save_file", full)
    with pytest.raises(RunError, match=r"step-00000002: not written, the disk is full \(\d+ MiB free\); make room"):
        _save(tmp_path, 2)
    assert _value(tmp_path) == 1.0
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


def test_a_folder_that_cannot_be_made_is_a_failed_run(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="not written"):
        _save(tmp_path / "file" / "folder", 1)


def test_a_checkpoint_is_not_deleted_before_the_next_is_whole(tmp_path, monkeypatch):
    for step in (1, 2):
        _save(tmp_path, step)
    replace, names = os.replace, []

    def watch(source, target):
        names.append(sorted(path.name for path in tmp_path.glob("step-*")))
        replace(source, target)

    monkeypatch.setattr(os, "replace", watch)
    _save(tmp_path, 3)
    assert names == [["step-00000001", "step-00000002"]]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000002", "step-00000003"]
