"""The model card says what was measured, and no more."""

import re
from pathlib import Path
from typing import Any
from unittest import mock

import jinja2.meta
import pytest
from huggingface_hub import ModelCard

from ssl_zoo.hub.card import TEMPLATE, render_card
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
    assert table[2].endswith("| - | 43.75 | 25 | not measured | `1234567` |")
    assert table[3].endswith("| - | 0.25 ± 0.18 (2 seeds) | not measured | not measured | `1234567` |")
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
    assert "| 43.75 |" in table
    assert "| 75 |" in table


def test_results_of_another_state_of_the_run_are_left_out() -> None:
    metrics = [{"step": 2, "images_seen": 128}]
    old = [result(images_seen=64, value=0.75), result(subject="random_init", images_seen=0, value=0.25)]
    text = card(old, options={"metrics": metrics})
    assert "75 |" not in section(text, "Results")
    assert ModelCard(text).data.eval_results is None
    table = section(card([result(), *old], options={"metrics": metrics}), "Results")
    assert "| 43.75 | 25 | not measured |" in table


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


def test_every_name_in_the_template_is_given_and_every_given_one_used() -> None:
    """Jinja renders a misspelt name as an empty string."""
    text = TEMPLATE.read_text(encoding="utf-8")
    with mock.patch.object(ModelCard, "from_template", wraps=ModelCard.from_template) as spy:
        card([])
    given = spy.call_args.kwargs.keys() - {"template_path"} | {"card_data"}
    assert jinja2.meta.find_undeclared_variables(jinja2.Environment().parse(text)) == given


def test_paper_and_citation() -> None:
    text = card([])
    assert "https://huggingface.co/papers/2211.02284" in text
    assert "2211.02284" in section(text, "Citation")


def test_picture_only_when_there_is_one(tmp_path: Path) -> None:
    assert "![" not in card([])
    assert "(clusters.png)" in card([], options={"pictures": ["clusters.png"]})


CONVERSION = {
    "entry": "mira-resnet50.imagenet1k-800ep",
    "method": "mira",
    "layout": "mira",
    "branch": "teacher",
    "source": {"file": "mira.pth", "bytes": 1234, "sha256": "ab" * 32, "url": "https://x.org/mira.pth", "epoch": 800},
    "license": {"id": None, "name": None, "where": "https://github.com/mlbio-epfl/mira"},
    "paper": "https://huggingface.co/papers/2211.02284",
    "dataset": "cifar10",
    "reported": [
        {"metric": "knn_top1", "value": 55.5, "dataset": "cifar10", "protocol": "1-NN", "where": "table 9"},
        {"metric": "knn_top1", "value": 66.6, "dataset": "cifar10", "protocol": "20-NN", "where": "table 9"},
        {
            "metric": "linear_top1",
            "value": 74.1,
            "dataset": "imagenet-1k",
            "protocol": "linear probe",
            "where": "t. 1",
        },
    ],
    "notes": "Two views of 224 pixels.",
    "left_out": {"optimizer": "state of the training"},
    "result": {"model.safetensors": {"sha256": "cd" * 32, "bytes": 99}},
    "versions": {"torch": "2.14.1"},
    "commit": "1234567",
    "command": "python recipes/convert.py mira mira.pth out",
    "date": "2026-01-01",
}


def converted(results: list[dict[str, Any]], **changes: Any) -> str:
    config = {**CONFIG, **changes.pop("config", {})}
    options = {"metrics": [], "repo_id": "org/name", "conversion": {**CONVERSION, **changes}}
    return render_card(None, config, results=results, **options)


def test_reported_and_measured_are_columns_of_their_own() -> None:
    table = [line.split(" | ") for line in section(converted([]), "Results").splitlines() if line.startswith("|")]
    reported, measured = (table[0].index(name) for name in ("reported by the authors", "measured by us"))
    assert [line[reported] for line in table[2:]] == ["55.5 (table 9)", "66.6 (table 9)", "74.1 (t. 1)"]
    assert {line[measured] for line in table[2:]} == {"not measured"}
    text = converted([result(), result(subject="random_init", value=0.25)])
    table = [line.split(" | ") for line in section(text, "Results").splitlines() if line.startswith("|")]
    cells = {line[reported]: line[measured] for line in table[2:]}
    # k of our measurement is 20: it stands beside the authors' 20-NN, not beside their 1-NN.
    assert cells == {"66.6 (table 9)": "43.75", "55.5 (table 9)": "not measured", "74.1 (t. 1)": "not measured"}
    assert [found.metric_value for found in ModelCard(text).data.eval_results] == [0.4375], "reports aren't ours"
    assert ModelCard(converted([])).data.eval_results is None


def test_our_runs_have_no_reported_numbers() -> None:
    table = [line.split(" | ") for line in section(card([result()]), "Results").splitlines() if line.startswith("|")]
    assert table[2][table[0].index("reported by the authors")] == "-"
    assert "at `0b27149`" in table[2][2], "the data's revision"


def test_licence_is_what_the_release_states() -> None:
    text = converted([])
    assert ModelCard(text).data.license == "unknown"
    assert "states no licence" in section(text, "Licence")
    assert "declared" not in section(text, "Licence")
    assert "declared on 2026-01-02" in section(converted([], published_with_permission="2026-01-02"), "Licence")
    stated = {"id": "mit", "name": "MIT", "where": "https://github.com/x/LICENSE"}
    text = converted([], license=stated)
    assert ModelCard(text).data.license == "mit"
    assert "under MIT" in section(text, "Licence")
    assert "no licence" not in section(text, "Licence")


def test_origin_names_the_file_and_its_hash() -> None:
    text = section(converted([]), "Origin")
    for words in ("ab" * 32, "cd" * 32, "`mira.pth`, 1,234 bytes", "https://x.org", "| epoch | 800 |", "Two views"):
        assert words in text
    assert "- `optimizer`: state of the training" in text
    assert "recipes/convert.py mira-resnet50.imagenet1k-800ep mira.pth OUT" in text


def test_a_release_without_heads() -> None:
    text = converted([], config={"pretraining_subfolder": None})
    assert "no heads" in text
    assert "AutoModelForPreTraining" not in text
    assert "AutoModelForPreTraining" in converted([])


def test_earlier_versions_keep_their_numbers() -> None:
    old = {"weights_sha256": "ef" * 32}
    earlier = [
        {**result(value=0.111), **old, "revision": "1" * 40},
        {**result(value=0.222), **old, "revision": "2" * 40},
    ]
    text = card([result()], options={"earlier": earlier})
    lines = [line for line in section(text, "Earlier versions").splitlines() if line.startswith("| `")]
    assert ["22.2" in lines[0], "11.1" in lines[1]] == [True, True], "the latest first"
    assert "11.1" not in section(text, "Results")
    assert "Earlier versions" not in card([result()])
