"""`recipes/convert.py`: what it says, what it writes, and that a failure leaves nothing behind."""

import json
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from ssl_zoo.conversion import convert, record
from ssl_zoo.zoo.entries import License, Reported, ZooEntry
from tests.conversion.author_layouts import State, in_memory, mean_shift_state, mira_state, resnet, saved


Run = Callable[..., str]


@pytest.fixture(scope="module")
def backbone() -> State:
    """The smallest checkpoint there is: CorInfoMax's backbone alone."""
    return dict(resnet("resnet18").state_dict())


@pytest.fixture
def run(root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the script in this process; returns what it printed."""

    def main(*arguments: object) -> str:
        script = str(root / "recipes" / "convert.py")
        monkeypatch.setattr(sys, "argv", [script, *map(str, arguments)])
        runpy.run_path(script, run_name="__main__")
        return capsys.readouterr().out

    return main


def refusal(run: Run, *arguments: object) -> str:
    with pytest.raises(SystemExit) as stopped:
        run(*arguments)
    message = str(stopped.value)
    assert message.startswith("Not converted. ")
    assert "\n" not in message
    return message


def entry(**changes: object) -> ZooEntry:
    fields = {
        "name": "corinfomax-resnet18.some-100ep",
        "method": "corinfomax",
        "backbone": "resnet18",
        "dataset": "imagenet-1k",
        "origin": "authors",
        "license": License("mit", "MIT", "https://example.org/LICENSE"),
        "paper": "https://huggingface.co/papers/2209.07999",
        "reported": (Reported("linear_top1", 69.08, "imagenet-1k", "linear probe", "README"),),
        "recipe": None,
        "layout": "corinfomax-backbone",
        "url": "https://example.org/t_resnet50.pth",
        "file": "t_resnet50.pth",
        "folder": None,
        "notes": "What one must know.",
        "source": "https://example.org",
        **changes,
    }
    return ZooEntry(**fields)  # type: ignore[arg-type]


def test_it_says_what_it_recognised_and_what_is_next(backbone: State, run: Run, tmp_path: Path) -> None:
    file, out = saved(backbone, tmp_path / "t_resnet50.pth", epoch=7, optimizer={}), tmp_path / "deep" / "out"
    text = run("auto", file, out)
    about = json.loads((out / "conversion.json").read_text())
    digest = about["source"]["sha256"]
    assert f"layout corinfomax-backbone of corinfomax, epoch 7, resnet18\n            SHA-256 {digest}" in text
    assert about["result"]["model.safetensors"]["sha256"] in text
    assert "Left out:   projector: the file holds the backbone alone" in text
    assert "optimizer: state of the training" in text
    assert f"recipes/evaluate.py {out}" in text
    assert f"recipes/publish.py {out} org/corinfomax-resnet18" in text
    assert json.loads((out / "config.json").read_text())["converted_from_sha256"] == digest
    assert {path.name for path in out.parent.iterdir()} == {"out"}
    assert not [path for path in out.rglob("*") if path.suffix in (".pth", ".bin", ".pt")]


def test_an_entry_of_the_zoo_brings_numbers_and_licence(
    backbone: State, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(convert, "find_entry", {entry().name: entry()}.__getitem__)
    out = tmp_path / "out"
    out.mkdir()  # an empty folder is allowed
    text = run(entry().name, saved(backbone, tmp_path / "renamed.pth", key=""), out)
    about = json.loads((out / "conversion.json").read_text())
    assert (about["entry"], about["dataset"], about["license"]["id"]) == (entry().name, "imagenet-1k", "mit")
    assert about["reported"] == [
        {"metric": "linear_top1", "value": 69.08, "dataset": "imagenet-1k", "protocol": "linear probe"}
        | {"where": "README"}
    ]
    assert about["source"]["url"] == entry().url
    assert about["notes"] == "What one must know."
    assert "Licence:    MIT (https://example.org/LICENSE)" in text
    assert "69.08" in (out / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"backbone": "resnet50"}, "holds a resnet18"),
        ({"epochs": 800}, "was saved at epoch 400, 'corinfomax"),
    ],
)
def test_the_numbers_of_an_entry_are_never_put_on_another_model(
    changes: dict[str, object], words: str, backbone: State, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(convert, "find_entry", {entry().name: entry(**changes)}.__getitem__)
    file = saved(backbone, tmp_path / "some.pth", epoch=400)
    assert words in refusal(run, entry().name, file, tmp_path / "out")


def test_the_numbers_of_one_branch_are_not_put_on_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = entry(name="mira-resnet18.some", method="mira", layout="mira")
    monkeypatch.setattr(convert, "find_entry", {known.name: known}.__getitem__)
    file = saved(mira_state(), tmp_path / "some.pth")
    made = convert.convert_checkpoint(known.name, file, tmp_path / "out", branch="student")
    assert made.conversion["reported"] == []


def test_a_licence_that_is_not_known_is_none(
    backbone: State, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(method: str) -> License:
        raise ValueError(f"different licences of {method}")

    monkeypatch.setattr(record, "release_license", unknown)
    text = run("corinfomax", saved(backbone, tmp_path / "some.pth"), tmp_path / "out")
    assert json.loads((tmp_path / "out" / "conversion.json").read_text())["license"]["id"] is None
    assert "--private" in text


def test_the_file_of_an_entry_is_pointed_to(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, backbone: State
) -> None:
    monkeypatch.setattr(record, "load_index", lambda: {entry().name: entry(file="some.pth")})
    with caplog.at_level("INFO"):
        record.point_to_entries(in_memory(backbone), "corinfomax")
    assert entry().name in caplog.text


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"layout": None, "notes": "It is in JAX."}, "It is in JAX"), ({"layout": None, "origin": "ours"}, "is our own")],
)
def test_an_entry_without_a_converter(
    changes: dict[str, str], words: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(convert, "find_entry", {entry().name: entry(**changes)}.__getitem__)
    assert words in refusal(run, entry().name, tmp_path / "none.pth", tmp_path / "out")


@pytest.mark.parametrize(
    ("change", "arguments", "words"),
    [
        ({"bn1.bias": None}, ["corinfomax"], "1 missing: bn1.bias"),
        ({"layer1.0.bn1.weight": None, "bn1.bias": None}, ["auto"], "2 missing: "),
        ({"extra": torch.ones(3)}, ["corinfomax"], "1 unexpected: extra"),
        ({"bn1.bias": torch.ones(3)}, ["auto"], "1 misshaped: bn1.bias [3] instead of [64]"),
        ({"layer3.0.conv1.weight": None, "layer3.1.bn2.bias": torch.ones(1)}, ["auto"], "1 missing: layer3.0.conv1"),
        ({"layer4.2.conv1.weight": torch.ones(1)}, ["auto"], "(2, 2, 2, 3) basic blocks"),
        ({"conv1.weight": torch.ones(64, 3, 5, 5)}, ["auto"], "of 7x7, or of 3x3"),
        ({"conv1.weight": None}, ["auto"], "has none of the known layouts"),
        ({}, ["mira"], "has the layout 'corinfomax-backbone', not one of 'mira'"),
        ({}, ["corinfomix"], "NAME must be `auto`, a method (cmsf, corinfomax, mira, msf, sela)"),
        ({}, ["mira-resnet5O.imagenet1k-800ep"], "the zoo has no model"),
        (
            {},
            ["corinfomax", "--branch", "teacher"],
            "--branch must be left out (there is one network) for 'corinfomax'",
        ),
        ({}, ["auto", "--branch", "teacher"], "has one network, no branches, got --branch 'teacher'"),
        ({"fill": np.float64(1)}, ["corinfomax"], "wants to run code"),
    ],
)
def test_a_refusal_leaves_nothing(
    change: dict[str, object], arguments: list[str], words: str, backbone: State, run: Run, tmp_path: Path
) -> None:
    state = {name: tensor for name, tensor in {**backbone, **change}.items() if tensor is not None}
    saved(state, tmp_path / "some.pth")
    assert words in refusal(run, arguments[0], tmp_path / "some.pth", tmp_path / "out", *arguments[1:])
    assert [path.name for path in tmp_path.iterdir()] == ["some.pth"]


def test_many_misfits_are_counted_and_the_first_listed(backbone: State, run: Run, tmp_path: Path) -> None:
    state = {name: tensor for name, tensor in backbone.items() if not name.endswith("running_var")}
    message = refusal(run, "auto", saved(state, tmp_path / "some.pth"), tmp_path / "out")
    assert "20 missing: bn1.running_var, layer1.0.bn1.running_var" in message
    assert "and 12 more" in message


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_is_at_out_stays(kind: str, backbone: State, run: Run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    kept = out / "kept.txt" if kind == "folder" else out
    kept.parent.mkdir(exist_ok=True)
    kept.write_text("mine")
    assert "is not empty" in refusal(run, "auto", tmp_path / "not_even_read.pth", out)
    assert kept.read_text() == "mine"


def test_a_full_disk_leaves_nothing(
    backbone: State, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(convert, "export_repo", fail)
    file = saved(backbone, tmp_path / "some.pth")
    assert "No space left" in refusal(run, "auto", file, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["some.pth"]


def test_no_checkpoint_fits_two_layouts_but_msf() -> None:
    """`auto` is unambiguous except for MSF and supervised CMSF, which save the same names."""
    with torch.device("meta"):
        states = {"mira": mira_state(), **{name: mean_shift_state(name) for name in ("msf", "cmsf-self", "cmsf-semi")}}
    for name, state in states.items():
        keys = in_memory(state).state.keys()
        found = [layout.name for layout in convert.LAYOUTS if layout.recognises(keys)]
        assert found == (["msf", "cmsf-sup"] if name == "msf" else [name])
    assert len({layout.name for layout in convert.LAYOUTS}) == len(convert.LAYOUTS)


def test_the_help_has_examples(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run("--help")
    text = capsys.readouterr().out
    assert "python recipes/convert.py mira-resnet50.imagenet1k-800ep" in text
    assert "mira: teacher, student" in " ".join(text.split())
