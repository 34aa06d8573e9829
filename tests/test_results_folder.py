"""Numbers go from runs into results/ and from there onto the page, unchanged."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from ssl_zoo.evaluation.results import Result, append_results
from ssl_zoo.training.config import RecipeError
from ssl_zoo.training.recipe import load_recipe


sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "results"))
from page import COLUMNS, Entry, read_entries, read_lines, render_page, results_file
from picture import Dot, save_comparison_picture
from record import record_results


KNN, LINEAR, FEW = COLUMNS[0], COLUMNS[1], COLUMNS[2]
RESULT = Result(
    metric="knn_top1",
    value=0.5,
    subject="trained",
    protocol={"name": "knn", "k": 20, "temperature": 0.07},
    data={"path": "pets", "test_split": "test", "num_test": 100},
    seed=0,
    images_seen=200,
    commit="abc",
    versions={},
    wall_seconds=1.0,
    command="python recipes/evaluate.py run",
    interval=[0.4, 0.6],
)
FINETUNED = {"name": "finetune", "share": 0.01, "epochs": 40}


def write_recipe(folder, name="cifar10_small_cpu"):
    path = folder / f"{name}.yaml"
    path.write_text(
        "# A header.\nmethod: mira\n\nmodel: {num_prototypes: 5}\n\noptim: {warmup_epochs: 0.0}\n\n"
        "train: {epochs: 1.0}\n"
    )
    return path


def write_run(folder, recipe_file, overrides, results):
    folder.mkdir(parents=True)
    load_recipe(recipe_file, overrides).save(folder / "recipe.yaml")
    append_results(folder / "results.jsonl", results)
    return folder


@pytest.fixture
def recorded(tmp_path):
    (tmp_path / "recipes" / "mira").mkdir(parents=True)
    recipe = write_recipe(tmp_path / "recipes" / "mira")
    runs = []
    for seed in (0, 1):
        results = [
            replace(RESULT, seed=None, subject="raw_pixels", value=0.3, images_seen=None),
            replace(RESULT, seed=seed, value=0.1),  # measured again below
            replace(RESULT, seed=seed, value=0.5 + seed / 10),
            replace(RESULT, seed=seed, protocol={"name": "knn", "k": 1}, value=0.9),
            replace(RESULT, seed=seed, metric="rankme", value=7.0, protocol={"name": "spectrum"}),
            replace(RESULT, seed=seed, metric="finetune_top1", protocol=FINETUNED, value=0.25),
            replace(RESULT, seed=seed, metric="finetune_top1", protocol={**FINETUNED, "share": 0.1}, value=0.75),
        ]
        runs.append(
            write_run(tmp_path / f"run{seed}", recipe, [f"train.seed={seed}", "data.path=/somewhere/pets"], results)
        )
    record_results(recipe, runs)
    return recipe


def test_the_file_keeps_what_the_table_shows_and_how_it_was_made(recorded, tmp_path):
    file = tmp_path / "results" / "mira" / "cifar10_small_cpu.jsonl"
    assert results_file(recorded) == file
    lines, text = read_lines(file), file.read_text()
    assert [(line["subject"], line["metric"], line["seed"], line["value"]) for line in lines] == [
        ("raw_pixels", "knn_top1", None, 0.3),
        ("trained", "knn_top1", 0, 0.5),
        ("trained", "finetune_top1", 0, 0.25),
        ("trained", "finetune_top1", 0, 0.75),
        ("trained", "knn_top1", 1, 0.6),
        ("trained", "finetune_top1", 1, 0.25),
        ("trained", "finetune_top1", 1, 0.75),
    ]
    assert lines[1]["protocol"] == {"name": "knn", "k": 20}
    assert lines[1]["interval"] == [0.4, 0.6]
    assert lines[4]["command"].endswith(" recipes/mira/cifar10_small_cpu.yaml data.path=pets train.seed=1")
    other = write_run(recorded.parent / "other", recorded, ["train.epochs=2"], [RESULT])
    with pytest.raises(RecipeError, match=r"differs in train\.epochs"):
        record_results(recorded, [other])
    assert file.read_text() == text


def test_the_table_has_means_intervals_and_empty_cells(recorded, tmp_path):
    rivals = tmp_path / "rivals.json"
    line = {"metric": "knn_top1", "subject": "trained", "seed": 0, "value": 0.7, "images_seen": 200}
    line |= {"protocol": {"name": "knn", "k": 20}, "interval": [0.65, 0.75]}
    rivals.write_text(json.dumps({"swav": {"title": "SwAV, lightly", "results": [line]}}))
    entries = read_entries([recorded], rivals)
    assert [(entry.title, entry.kind) for entry in entries] == [
        ("raw pixels", "baseline"),
        ("SwAV, lightly", "rival"),
        ("[MIRA](../recipes/mira/cifar10_small_cpu.yaml)", "ours"),
    ]
    _, swav, mira = entries
    assert mira.cell(KNN) == "55.0 ± 7.1"
    assert mira.spread(KNN) == pytest.approx((55 - 2 * 7.0711, 55 + 2 * 7.0711), abs=1e-3)
    assert (mira.cell(FEW), mira.cell(LINEAR)) == ("25.0 ± 0.0", "")
    assert swav.cell(KNN) == "70.0 [65.0, 75.0]"
    page = render_page("before\n<!-- table -->\nafter\n<!-- curves -->\n", entries, [recorded])
    rows = [row for row in page.splitlines() if row.startswith("|")]
    assert [row.split("|")[1].strip() for row in rows[2:]] == [
        "raw pixels",
        "*SwAV, lightly*",
        "**[MIRA](../recipes/mira/cifar10_small_cpu.yaml)**",
    ]
    assert len({row.count("|") for row in rows}) == 1
    assert rows[-1].split("|")[3].strip() == "200"
    assert page.splitlines()[0] == "before"
    assert "after" in page


def test_a_seed_measured_twice_counts_once():
    line = {"metric": "knn_top1", "seed": 0, "value": 0.1, "protocol": {"name": "knn", "k": 20}}
    entry = Entry("x", "none", "ours", [line, {**line, "value": 0.2}])
    assert entry.cell(KNN) == "20.0"


def test_the_picture_is_drawn_with_gaps(tmp_path):
    rows = [("random init", "baseline"), ("MIRA", "ours"), ("SwAV, lightly", "rival")]
    panels = [("k-NN, %", [Dot(26, 26, 26), Dot(45, 44, 46), None]), ("linear, %", [None, Dot(46, 45, 47), None])]
    save_comparison_picture(tmp_path / "results.png", rows, panels, title="Title")
    assert (tmp_path / "results.png").stat().st_size > 10_000
