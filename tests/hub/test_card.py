"""The model card says what was measured, and no more."""

import re
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from ssl_zoo.hub.card import render_card
from tests.hub.runs import result


RECIPE = {"method": "mira", "data": {"path": "uoft-cs/cifar10", "split": "train"}, "train": {"epochs": 200}}
CONFIG = {
    "architecture": "resnet18",
    "num_features": 512,
    "small_image_stem": False,
    "pretraining_subfolder": "pretraining",
    "pretrained_cfg": {"input_size": [3, 32, 32]},
}


def card(results: list[dict[str, Any]], **changes: Any) -> str:
    options = {"metrics": [], "repo_id": "org/name", **changes.pop("options", {})}
    return render_card(RECIPE | changes.pop("recipe", {}), CONFIG | changes, results=results, **options)


def section(text: str, title: str) -> str:
    return text.split(f"\n## {title}\n")[1].split("\n## ")[0]


def test_no_results_no_numbers() -> None:
    text = card([])
    found = section(text, "Results")
    assert "Not measured" in found
    assert not re.search(r"\d", found)
    assert ModelCard(text).data.eval_results is None
    assert section(text, "Training").count("not measured") == 2


def test_unmeasured_values_do_not_become_numbers() -> None:
    text = card([result(value=float("nan")), result(metric="nmi", value=None), result(metric="ari", value=True)])
    assert not re.search(r"\d", section(text, "Results"))
    assert ModelCard(text).data.eval_results is None


def test_results_are_those_measured() -> None:
    results = [
        result(value=0.1),  # measured again later with the same seed
        result(),
        result(subject="random_init", value=0.25),
        result(metric="nmi", protocol={"name": "nmi"}, value=0.125),
        result(metric="nmi", protocol={"name": "nmi"}, value=0.375, seed=1),
    ]
    text = card(results)
    table = [line for line in section(text, "Results").splitlines() if line.startswith("|")]
    assert table[2].endswith("| 0.4375 | 0.25 | not measured |")
    assert table[3].endswith("| 0.25 ± 0.18 (2 seeds) | not measured | not measured |")
    knn, nmi = ModelCard(text).data.eval_results
    assert (knn.metric_value, nmi.metric_value) == (0.4375, "0.25 ± 0.18 (2 seeds)")
    assert (knn.dataset_type, knn.dataset_split) == ("uoft-cs/cifar10", "test")
    assert knn.dataset_revision == result()["data"]["revision"]
    for name in ("seed", "commit", "versions", "command", "images_seen"):
        assert knn.metric_args[name] == result()[name]
    assert nmi.metric_args["seed"] == [0, 1]
    for words in ("`1234567`", "torch 2.14.1", "`python recipes/evaluate.py runs/x`"):
        assert words in section(text, "Results")


def test_results_on_other_data_are_not_mixed() -> None:
    other = {**result()["data"], "path": "org/other"}
    table = section(card([result(), result(data=other, value=0.75, seed=1)]), "Results")
    assert "±" not in table
    assert "| 0.4375 |" in table
    assert "| 0.75 |" in table


def test_results_of_another_state_of_the_run_are_left_out() -> None:
    metrics = [{"step": 2, "images_seen": 128}]
    old = [result(images_seen=64, value=0.75), result(subject="random_init", images_seen=0, value=0.25)]
    text = card(old, options={"metrics": metrics})
    assert "0.75" not in text
    assert ModelCard(text).data.eval_results is None
    table = section(card([result(), *old], options={"metrics": metrics}), "Results")
    assert "| 0.4375 | 0.25 | not measured |" in table


def test_training_facts_come_from_the_log() -> None:
    metrics = [{"step": n, "images_seen": 640 * n, "images_per_second": 64.0} for n in (1, 2, 3)]
    text = section(card([], options={"metrics": metrics}), "Training")
    assert "| images seen | 1,920 |" in text
    assert "| time in training steps | 30 s, from the logged throughput |" in text


def test_metadata_names_hub_data_only() -> None:
    assert ModelCard(card([])).data.datasets == ["uoft-cs/cifar10"]
    for path in ("embedded", "pets"):
        assert ModelCard(card([], recipe={"data": {"path": path}})).data.datasets is None
    assert ModelCard(card([])).data.license == "apache-2.0"


def test_small_image_stem_is_no_timm_model() -> None:
    text = card([], small_image_stem=True)
    assert "can't load this model" in text
    assert "create_model(" not in text
    assert "TimmWrapperModel.from_pretrained" not in text
    assert "create_model(" in card([])


@pytest.mark.parametrize("revision", [None, "exp/one"])
def test_code_compiles_and_names_the_repository(revision: str | None) -> None:
    blocks = re.findall(r"```python\n(.*?)```", card([], options={"revision": revision}), re.DOTALL)
    assert len(blocks) == 6
    for block in blocks:
        compile(block, "card", "exec")
        assert "org/name" in block
        assert revision is None or revision in block


def test_paper_and_citation() -> None:
    text = card([])
    assert "https://huggingface.co/papers/2211.02284" in text
    assert "2211.02284" in section(text, "Citation")


def test_picture_only_when_there_is_one(tmp_path: Path) -> None:
    assert "![" not in card([])
    assert "(clusters.png)" in card([], options={"pictures": ["clusters.png"]})
