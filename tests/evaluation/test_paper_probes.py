import dataclasses

import pytest

from ssl_zoo.evaluation.protocols.finetune import FinetuneSettings
from ssl_zoo.evaluation.protocols.linear_paper import paper_probe
from ssl_zoo.models.registry import find_method, method_names


GIVEN = FinetuneSettings(frozen=True)
WITH_PROBE = [method for method in method_names() if find_method(method).linear_probe is not None]


def absolute_rate(method: str, num_classes: int = 1000) -> float:
    """The learning rate as papers print it, for their whole batch."""
    settings, _ = paper_probe(method, GIVEN, num_classes=num_classes)
    return settings.head_learning_rate * settings.batch_size / 256


def test_rates_and_lengths_are_the_papers():
    assert absolute_rate("mira") == pytest.approx(0.075)
    assert absolute_rate("sela") == pytest.approx(0.1)
    assert absolute_rate("byol") == pytest.approx(0.2)
    assert absolute_rate("msf") == absolute_rate("cmsf") == pytest.approx(0.01)
    assert (absolute_rate("corinfomax"), absolute_rate("corinfomax", 10)) == (25.0, 0.2)
    epochs = {method: paper_probe(method, GIVEN, num_classes=1000)[0].epochs for method in WITH_PROBE}
    assert epochs == {"mira": 100, "sela": 146, "corinfomax": 100, "msf": 40, "cmsf": 40, "byol": 80}


def test_backbones_stay_frozen_and_what_is_said_wins():
    for method in WITH_PROBE:
        assert paper_probe(method, GIVEN, num_classes=10)[0].frozen
    changed, paper = paper_probe("mira", dataclasses.replace(GIVEN, epochs=3), num_classes=10)
    assert changed == dataclasses.replace(paper_probe("mira", GIVEN, num_classes=10)[0], epochs=3)
    assert paper == "mira"


@pytest.mark.parametrize("method", ["paws", "vit", None])
def test_a_method_without_a_probe_is_told_what_to_use(method):
    with pytest.raises(ValueError, match=r"has no linear probe of its own paper .*--protocol linear"):
        paper_probe(method, GIVEN, num_classes=10)
