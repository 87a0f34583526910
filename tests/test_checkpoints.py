"""Checkpoints: a round trip, one clear message for each bad file, and a disk that is full."""

import errno
import os
import pickle
import subprocess
import sys

import pytest
import torch
from tiny import AUTOREGRESSIVE, model_of

from lib.config import load_config
from lib.errors import CheckpointError
from lib.models import build
from lib.paths import ROOT
from lib.training import checkpoints

COMMAND = "papermill the notebook"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "checkpoints" / "last.pt"


def test_round_trip_of_tensors_and_plain_python(path):
    content = {"weights": {"a": torch.randn(3, 2), "b": torch.arange(4, dtype=torch.bfloat16)},
               "step": 3, "bleu": -float("inf"), "history": [{"loss": 0.1, "name": "é"}],
               "random": torch.get_rng_state(), "nothing": None}
    checkpoints.save(path, content)
    found = checkpoints.load(path, COMMAND)
    assert found.pop("format") == checkpoints.FORMAT
    assert set(found) == set(content)
    for name in ("step", "bleu", "history", "nothing"):
        assert found[name] == content[name]
    for name, value in content["weights"].items():
        assert found["weights"][name].dtype == value.dtype
        assert torch.equal(found["weights"][name], value)
    assert torch.equal(found["random"], content["random"])
    assert torch.load(path, weights_only=True)["step"] == 3
    assert [p.name for p in path.parent.iterdir()] == ["last.pt"]


def test_optimiser_and_model_state_round_trip(path):
    """What training saves is loadable with weights_only=True."""
    model = model_of(AUTOREGRESSIVE, 9)
    optimiser = torch.optim.Adam(model.parameters(), fused=True)
    model.embedding.weight.sum().backward()
    optimiser.step()
    checkpoints.save(path, {"weights": model.state_dict(), "optimiser": optimiser.state_dict()})
    found = checkpoints.load(path, COMMAND)
    fresh = build(AUTOREGRESSIVE, 9)
    checkpoints.load_weights(fresh, found["weights"], path)
    for name, value in model.state_dict().items():
        assert torch.equal(fresh.state_dict()[name], value)
    again = torch.optim.Adam(fresh.parameters(), fused=True)
    again.load_state_dict(found["optimiser"])
    for one, other in zip(optimiser.state.values(), again.state.values(), strict=True):
        assert all(torch.equal(one[k], other[k]) for k in one)


# Settings ------------------------------------------------------------------------------------

def test_changed_settings_are_named_and_new_ones_had_their_default(path):
    config = load_config("ga_b").as_dict()
    assert checkpoints.changed_settings(config, config) == []
    older = load_config("ga_b").as_dict()
    del older["training"]["accumulate"], older["architecture"]["upsampling"]
    assert checkpoints.changed_settings(config, older) == []
    del older["training"]["dropout"]  # which has no default
    older["evaluation"]["samples"] += 1
    older["training"]["patience"] += 1
    assert checkpoints.changed_settings(config, older) == [
        "training.dropout", "training.patience", "evaluation.samples"]
    with pytest.raises(CheckpointError, match=r"other settings of training\.dropout: restore"):
        checkpoints.check_settings({"config": older}, config, path)


@pytest.mark.parametrize(("model", "changes", "named"), [
    ("tr_s", {"heads": 4}, r"architecture\.heads"),
    ("fl_s", {"flow_heads": 1}, r"architecture\.flow_heads"),
    ("da_b", {"upsampling": 3}, r"architecture\.upsampling"),
    ("da_b", {"objective": "best_path"}, r"training\.objective")])
def test_weights_of_the_same_shapes_are_refused_as_another_model(model, changes, named, path):
    """Of no other setting, and of none that an older record lacks."""
    config = load_config(model).as_dict()
    older = load_config(model, steps=7, samples=3, precision="bf16").as_dict()
    older["architecture"] = {name: value for name, value in older["architecture"].items() if value}
    for recorded in (older, {}):
        checkpoints.check_model({"config": recorded}, config, path)
    checkpoints.check_model({}, config, path)
    other = {"config": load_config(model, **changes).as_dict()}
    with pytest.raises(CheckpointError, match=f"{named}: .* or delete {path.parent.parent} to"):
        checkpoints.check_model(other, config, path)


def test_the_vocabularys_size_at_another_scale_changes_nothing():
    config = load_config("ga_b").as_dict()
    assert config["dataset"]["vocabulary"] == {"smoke": 512}
    older = load_config("ga_b").as_dict()
    older["dataset"]["vocabulary"] = {"smoke": 512, "mini": 7}
    assert checkpoints.changed_settings(config, older) == []
    older["dataset"]["vocabulary"] = {"smoke": 511}
    assert checkpoints.changed_settings(config, older) == ["dataset.vocabulary"]


# Bad files -----------------------------------------------------------------------------------

def refused(path) -> str:
    with pytest.raises(CheckpointError) as caught:
        checkpoints.load(path, COMMAND)
    message = str(caught.value)
    assert str(path) in message and COMMAND in message and "\n" not in message
    assert len(message) < 300 + 2 * len(str(path)), f"not one clear message: {message}"
    assert "weights_only" not in message and "trust" not in message, "unsafe advice"
    return message


def test_missing(path):
    assert "no checkpoint" in refused(path)


def test_truncated_anywhere(path):
    checkpoints.save(path, {"weights": {"a": torch.randn(40)}, "step": 3})
    whole = path.read_bytes()
    for length in [*range(0, len(whole), 37), len(whole) - 1]:
        path.write_bytes(whole[:length])
        assert "truncated or not a checkpoint" in refused(path), f"{length} of {len(whole)} bytes"


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("content", [
    b"", b"hello\n", b"\x00" * 100, "Übersetzung\n".encode(), b"PK\x03\x04" + b"x" * 50,
    b"{\"format\": \"discrepancy-1\"}", *(
        pickle.dumps(thing, protocol) for protocol in (0, 2, 4)
        for thing in (1, None, [1, 2], {"a": 1}, {"format": "discrepancy-1"}, print, ROOT)),
])
def test_foreign_bytes(path, content):
    path.parent.mkdir()
    path.write_bytes(content)
    assert "not a checkpoint" in refused(path)


def test_a_checkpoint_that_would_run_code_is_refused_unrun(path, tmp_path):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "sprung"),)

    path.parent.mkdir()
    torch.save({"format": checkpoints.FORMAT, "weights": Trap()}, path)
    assert "not a checkpoint" in refused(path)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("content", [
    {"embedding.weight": torch.zeros(2, 2)}, {"format": "other-3"}, [torch.zeros(2)],
    torch.zeros(3),
], ids=["state dict", "other format", "list", "tensor"])
def test_another_projects_file(path, content):
    path.parent.mkdir()
    torch.save(content, path)
    assert "wasn't made by this repository" in refused(path)


def test_a_folder_in_its_place(path):
    path.mkdir(parents=True)
    assert "not a checkpoint" in refused(path)


# What doesn't fit ----------------------------------------------------------------------------

def test_weights_of_another_shape(path):
    weights = build(AUTOREGRESSIVE, 9).state_dict()
    model = build(AUTOREGRESSIVE, 10)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"embedding.weight is \(9, 16\) there and "
                                              r"\(10, 16\) here. Use the model, scale"):
        checkpoints.load_weights(model, weights, path)
    assert all(torch.equal(before[n], v) for n, v in model.state_dict().items())


@pytest.mark.parametrize("change", ["lacks", "adds"])
def test_weights_of_another_model(path, change):
    model = build(AUTOREGRESSIVE, 9)
    weights = dict(model.state_dict())
    if change == "lacks":
        del weights["decoder.norm.bias"]
        expected = r"decoder.norm.bias is absent there and \(16,\) here"
    else:
        weights["prior.extra"] = torch.zeros(2)
        expected = r"prior.extra is \(2,\) there and absent here"
    with pytest.raises(CheckpointError, match=rf"{expected}.* delete {path.parent.parent} and"):
        checkpoints.load_weights(model, weights, path)


def test_another_vocabulary(path):
    checkpoints.check_vocabulary({"vocabulary": "a" * 64}, "a" * 64, path)
    with pytest.raises(CheckpointError, match=r"vocabulary aaaaaaaaaaaa, this corpus gives "
                                              rf"bbbbbbbbbbbb: .* delete {path.parent.parent} and"):
        checkpoints.check_vocabulary({"vocabulary": "a" * 64}, "b" * 64, path)


# A full disk ---------------------------------------------------------------------------------

def no_space(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def half_written(content, file):
    file.write(b"half")
    no_space()


@pytest.mark.parametrize(("owner", "name", "failure"), [
    (torch, "save", half_written), (os, "fsync", no_space), (os, "replace", no_space),
], ids=["torch.save", "os.fsync", "os.replace"])
@pytest.mark.parametrize("there", [True, False], ids=["an old file", "none before"])
def test_a_full_disk_keeps_the_old_file(path, monkeypatch, owner, name, failure, there):
    path.parent.mkdir()
    if there:
        checkpoints.save(path, {"step": 1})
    monkeypatch.setattr(owner, name, failure)
    with pytest.raises(CheckpointError, match="No space left on device") as caught:
        checkpoints.save(path, {"step": 2})
    monkeypatch.undo()
    assert ("of before is untouched" in str(caught.value)) == there
    assert "Free some disk space" in str(caught.value)
    assert [p.name for p in path.parent.iterdir()] == (["last.pt"] if there else [])
    if there:
        assert checkpoints.load(path, COMMAND)["step"] == 1


LIMITED = """
import resource, signal, sys
from pathlib import Path
import torch
from lib.training import checkpoints
from lib.errors import CheckpointError
path = Path(sys.argv[1])
checkpoints.save(path, {"step": 1})
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
try:
    checkpoints.save(path, {"step": 2, "weights": [torch.zeros(10_000) for _ in range(20)]})
except CheckpointError as error:
    raise SystemExit(0 if "untouched" in str(error) else f"message: {error}")
raise SystemExit("no error")
"""


def test_a_disk_that_really_refuses(path):
    """The system itself stops the file at 300,000 bytes of 800,000."""
    pytest.importorskip("resource")
    done = subprocess.run([sys.executable, "-c", LIMITED, str(path)], cwd=ROOT, text=True,
                          capture_output=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
                          timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert [p.name for p in path.parent.iterdir()] == ["last.pt"]
    assert checkpoints.load(path, COMMAND)["step"] == 1
