"""A new protocol is one file: nothing else has to know its settings, metrics, titles and units."""

import sys
from dataclasses import replace

import pytest

from ssl_zoo.evaluation import protocols
from ssl_zoo.evaluation.results import append_results, read_results, render_results
from ssl_zoo.hub.results import collect, to_model_index
from ssl_zoo.protocol import (
    Metric,
    describe_protocols,
    find_metric,
    find_protocol,
    known_metrics,
    protocol_names,
    read_protocol_settings,
)
from ssl_zoo.settings.hints import SettingsError
from tests.evaluation.tiny_run import tiny_evaluation
from tests.test_import import loaded_after


SOURCE = '''"""Accuracy of the nearest class mean."""

from dataclasses import dataclass

from ssl_zoo.protocol import Metric, Protocol
from ssl_zoo.settings.declare import plain, setting


@dataclass(frozen=True)
class MeansSettings:
    """How means are compared."""

    standardize: bool = setting(False, "bring features to variance 1 first")


def measure(evaluation, settings):
    """The accuracy."""
    import torch

    (train, labels), (test, known), *_ = evaluation.tables()
    if settings.standardize:
        train, test = train / train.std(dim=0), test / train.std(dim=0)
    means = torch.stack([train[labels == label].mean(dim=0) for label in range(evaluation.num_classes)])
    share = float((torch.cdist(test, means).argmin(dim=1) == known).float().mean())
    return [evaluation.result(METRIC, share, {"name": "means", **plain(settings)}, num_answers=len(known))]


METRIC = "means_top1"
PROTOCOL = Protocol(
    settings=MeansSettings(),
    metrics=(Metric("means_top1", "nearest mean", unit="%", hub_type="accuracy", parameters=("standardize",)),),
    measure=measure,
    subjects=("trained", "random_init"),
)
'''


@pytest.fixture
def means(tmp_path, monkeypatch):
    """The toy protocol in a folder of its own that belongs to the package for the length of a test."""
    (tmp_path / "means.py").write_text(SOURCE, encoding="utf-8")
    monkeypatch.setattr(protocols, "__path__", [*protocols.__path__, str(tmp_path)])
    yield find_protocol("means")
    del sys.modules[f"{protocols.__name__}.means"]
    del protocols.means


@pytest.fixture
def evaluation(tmp_path):
    return tiny_evaluation(tmp_path)


def test_it_is_listed_documented_and_takes_overrides(means):
    assert "means" in protocol_names()
    text = describe_protocols()
    assert "means: Accuracy of the nearest class mean.\n  measures: nearest mean\n" in text
    assert "  means.standardize: false    (true or false)\n      bring features to variance 1 first" in text
    assert read_protocol_settings(["means.standardize=true"])["means"].standardize
    with pytest.raises(SettingsError, match=r"the nearest valid key is `means.standardize`"):
        read_protocol_settings(["means.standardise=true"])


def test_its_number_is_shown_with_title_and_unit_everywhere(means, evaluation, tmp_path):
    results = evaluation.measure("means", read_protocol_settings(["means.standardize=true"])["means"])
    append_results(tmp_path / "results.jsonl", results)
    [result] = read_results(tmp_path / "results.jsonl")
    assert result.protocol == {"name": "means", "standardize": True}
    assert 0 < result.value < 1
    assert result.interval[0] <= result.value <= result.interval[1]
    per_cent = f"{100 * result.value:.2f} %"
    assert render_results([result]).splitlines()[-1] == f"nearest mean (standardize=True)  {per_cent}"
    rows = collect([vars(result)])
    shown = f"{100 * result.value:.4g}"
    assert [(row.title, row.parameters, row.value("trained")) for row in rows] == [
        ("nearest mean, %", "standardize True", shown)
    ]
    [entry] = to_model_index(rows)
    assert (entry.metric_type, entry.metric_name) == ("accuracy", "nearest mean")


def test_what_it_cannot_measure_is_passed_over_and_what_it_does_not_declare_is_refused(means, evaluation, monkeypatch):
    settings = means.settings
    pixels = replace(evaluation, subject=replace(evaluation.subject, name="raw_pixels"))
    assert pixels.measure("means", settings) == []
    monkeypatch.setattr(protocols.means, "METRIC", "mean_top1")
    with pytest.raises(ValueError, match=r"'means' returned \{'mean_top1'\}: declare them in `metrics`"):
        evaluation.measure("means", settings)


def test_metrics_have_one_declaration_or_equal_ones():
    metrics = [metric for name in protocol_names() for metric in find_protocol(name).metrics]
    assert {metric.name: metric for metric in metrics}.items() <= known_metrics().items()
    assert len(set(metrics)) == len({metric.name for metric in metrics})
    assert known_metrics()["detection_ap50"].title == "AP50"


def test_a_metric_that_nothing_declares_is_called_by_its_name():
    assert find_metric("gone_top1") == Metric("gone_top1", "gone_top1")
    line = {"metric": "gone_top1", "value": 0.5, "subject": "trained", "protocol": {"name": "gone", "depth": 3}}
    rows = collect([{**line, "data": {"path": "pets"}}])
    assert [(row.title, row.parameters, row.value("trained")) for row in rows] == [("gone_top1", "gone", "0.5")]
    assert to_model_index(rows)[0].metric_type == "gone_top1"


def test_declarations_import_only_what_is_light():
    """`--help` reads all declarations, and so does a card that looks up a title."""
    loaded = loaded_after("from ssl_zoo.protocol import known_metrics; known_metrics()")
    heavy = {"torch", "numpy", "scipy", "sklearn", "matplotlib", "datasets", "transformers", "timm", "PIL"}
    assert not loaded & heavy, "import these in `measure`, or under TYPE_CHECKING"
