"""The numbers in the README are those in results/."""

import json
from pathlib import Path
from statistics import mean, stdev

import pytest

from ssl_zoo.zoo.entries import load_index


ROOT = Path(__file__).resolve().parents[1]
SMALL_RECIPES = sorted({entry.recipe for entry in load_index().values() if entry.origin == "ours"})
SUBJECTS = {"raw_pixels": "raw pixels", "random_init": "random init", "trained": "**MIRA**"}


def results(name: str) -> list[dict]:
    """Lines of a file in results/."""
    return [json.loads(line) for line in (ROOT / "results" / name).read_text(encoding="utf-8").splitlines()]


def expected_rows(name: str) -> list[str]:
    """A row per subject: k-NN accuracy in percent, NMI; mean and standard deviation where there are several seeds."""
    rows = []
    for subject, title in SUBJECTS.items():
        cells = []
        for metric, scale, digits in (("knn_top1", 100, 1), ("nmi", 1, 2)):
            lines = [line for line in results(name) if (line["subject"], line["metric"]) == (subject, metric)]
            values = [scale * line["value"] for line in lines]
            spread = f" ± {stdev(values):.{digits}f}" if len(set(values)) > 1 else ""
            cells.append(f"{mean(values):.{digits}f}{spread}" if values else "")
        rows.append(f"| {title} | {cells[0]} | {cells[1]} |")
    return rows


def test_the_readme_shows_what_was_measured():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for row in expected_rows("mira/embedded.jsonl"):
        assert row in text


@pytest.mark.parametrize("recipe", SMALL_RECIPES)
def test_every_model_of_ours_beats_its_random_initialisation_clearly(recipe):
    """By 8 points of k-NN accuracy on CIFAR-10, on every seed, for each recipe that a model of the zoo was trained by.

    These recipes share one backbone, and its first weights are those of the seed whatever the method; they stand with
    MIRA's results.
    """
    untrained = accuracies("mira/cifar10_small_cpu.jsonl", "random_init")
    trained = accuracies(str(Path(recipe).relative_to("recipes").with_suffix(".jsonl")), "trained")
    assert trained, f"{recipe} was not measured"
    for seed, accuracy in trained.items():
        assert accuracy >= untrained[seed] + 0.08


def accuracies(name: str, subject: str) -> dict[int, float]:
    """k-NN accuracy by seed."""
    lines = [line for line in results(name) if (line["subject"], line["metric"]) == (subject, "knn_top1")]
    return {line["seed"]: line["value"] for line in lines}


def test_the_default_learns_on_every_seed():
    """Ten points above the better of raw pixels and the untrained backbone, as measured."""
    accuracy = {
        (line["subject"], line["seed"]): line["value"]
        for line in results("mira/embedded.jsonl")
        if line["metric"] == "knn_top1"
    }
    seeds = [seed for subject, seed in accuracy if subject == "trained"]
    assert len(seeds) >= 3
    for seed in seeds:
        assert accuracy["trained", seed] >= max(accuracy["random_init", seed], accuracy["raw_pixels", None]) + 0.1
