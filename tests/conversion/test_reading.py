"""Checkpoints are read without running code in them, and one sentence says why a file can't be read."""

import argparse
import collections
import hashlib
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ssl_zoo.conversion.layout import ConversionError
from ssl_zoo.conversion.reading import read_checkpoint
from tests.conversion.author_layouts import saved


STATE = {"conv1.weight": torch.arange(64.0).view(8, 8), "bn1.bias": torch.ones(8)}


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.folder),)


def assert_is_state(state: dict[str, torch.Tensor]) -> None:
    assert list(state) == list(STATE)
    assert all(torch.equal(state[name], STATE[name]) for name in STATE)


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model", ""])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_tensors_and_what_lies_beside_them(key: str, prefix: str, tmp_path: Path) -> None:
    state = collections.OrderedDict((f"{prefix}{name}", tensor) for name, tensor in STATE.items())
    file = saved(state, tmp_path / "some.pth.tar", key=key, epoch=3, optimizer={"state": {0: torch.ones(2)}})
    checkpoint = read_checkpoint(file)
    assert_is_state(checkpoint.state)
    # The key of the optimiser is kept, its tensors are not.
    assert checkpoint.extras == ({"epoch": 3, "optimizer": None} if key else {})
    content = file.read_bytes()
    assert (checkpoint.bytes, checkpoint.sha256) == (len(content), hashlib.sha256(content).hexdigest())


def test_one_tensor_without_the_prefix_keeps_it_for_all(tmp_path: Path) -> None:
    state = {"module.a.weight": torch.ones(50), "b": torch.ones(2)}
    assert list(read_checkpoint(saved(state, tmp_path / "some.pth")).state) == ["module.a.weight", "b"]


def test_the_namespace_of_a_command_line(tmp_path: Path) -> None:
    opt = argparse.Namespace(topk=10, arch="resnet50", lr_decay_epochs=[90, 120], gpu=None)
    assert read_checkpoint(saved(STATE, tmp_path / "msf.pth", opt=opt)).extras["opt"] == opt


def test_the_format_before_torch_1_6(tmp_path: Path) -> None:
    torch.save({"state_dict": STATE}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert_is_state(read_checkpoint(tmp_path / "old.pth").state)


@pytest.mark.parametrize("name", ["some.safetensors", "misnamed.pth"])
def test_safetensors(name: str, tmp_path: Path) -> None:
    save_file(STATE, tmp_path / name)
    state = read_checkpoint(tmp_path / name).state
    assert all(torch.equal(state[key], STATE[key]) for key in STATE)


@pytest.mark.parametrize("new_format", [True, False])
def test_code_is_refused_and_not_run(new_format: bool, tmp_path: Path) -> None:
    trapped, file = tmp_path / "trapped", tmp_path / "evil.pth"
    torch.save({"state_dict": STATE, "x": Trap(trapped)}, file, _use_new_zipfile_serialization=new_format)
    with pytest.raises(ConversionError, match=r"wants to run code: it names (posix|nt|os)\.mkdir, "):
        read_checkpoint(file)
    assert not trapped.exists()


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_plain_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    (tmp_path / "evil.pth").write_bytes(pickle.dumps({"state_dict": Trap(tmp_path / "trapped"), "fill": "x" * 200}))
    with pytest.raises(ConversionError):
        read_checkpoint(tmp_path / "evil.pth")
    assert not (tmp_path / "trapped").exists()


def test_a_class_of_ours_is_refused_too(tmp_path: Path) -> None:
    torch.save({"state_dict": STATE, "when": collections.UserDict(a=1)}, tmp_path / "some.pth")
    with pytest.raises(ConversionError, match=r"it names collections\.UserDict"):
        read_checkpoint(tmp_path / "some.pth")


@pytest.mark.parametrize("new_format", [True, False])
def test_a_whole_pickled_network_is_refused_in_words(new_format: bool, tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), tmp_path / "model_final.pth.tar", _use_new_zipfile_serialization=new_format)
    with pytest.raises(ConversionError, match=r"whole pickled network.*torch\.nn\.modules\.linear\.Linear.*"):
        read_checkpoint(tmp_path / "model_final.pth.tar")


def test_a_number_of_numpy_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="numpy"):
        read_checkpoint(saved(STATE, tmp_path / "some.pth", loss=np.float64(0.5)))


@pytest.mark.parametrize("new_format", [True, False])
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_file_that_was_cut_short(new_format: bool, share: float, tmp_path: Path) -> None:
    state = {"conv1.weight": torch.randn(5000)}
    torch.save({"state_dict": state}, tmp_path / "some.pth", _use_new_zipfile_serialization=new_format)
    content = (tmp_path / "some.pth").read_bytes()
    (tmp_path / "some.pth").write_bytes(content[: int(share * len(content))])
    with pytest.raises(ConversionError, match=r"download it again|damaged"):
        read_checkpoint(tmp_path / "some.pth")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "has 0 bytes"),
        (b"\n<!DOCTYPE html><html>" + b" " * 200, "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n" + b"oid sha256:0" * 20, "Git LFS pointer"),
        (b"\x1f\x8b" + b"0" * 200, "unpack it"),
        (b"some text that is no checkpoint at all " * 9, "damaged"),
        (b"PK\x03\x04" + bytes(300), "damaged"),
        ((400).to_bytes(8, "little") + b"{" + b"x" * 500, "not a complete safetensors file"),
    ],
)
def test_what_is_no_checkpoint(content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "some.pth").write_bytes(content)
    with pytest.raises(ConversionError, match=words) as raised:
        read_checkpoint(tmp_path / "some.pth")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([torch.ones(100)], "holds a list"),
        ({"epoch": 3, "name": "x" * 100}, "no tensors in it"),
        ({"state_dict": {"a": torch.ones(100), "b": "text"}}, "b in it are no tensors"),
        ({"state_dict": {}, "fill": torch.ones(100)}, "no tensors in it"),
    ],
)
def test_a_file_without_a_dictionary_of_tensors(content: object, words: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "some.pth")
    with pytest.raises(ConversionError, match=words):
        read_checkpoint(tmp_path / "some.pth")


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="there is no file"):
        read_checkpoint(tmp_path)
