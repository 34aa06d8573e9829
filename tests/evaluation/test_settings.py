"""Settings of protocols: the command line replaces the defaults, and impossible values are refused."""

import itertools

import pytest

from ssl_zoo.protocol import describe_protocols, find_protocol, protocol_names, read_protocol_settings
from ssl_zoo.settings.hints import SettingsError


def test_settings_change_and_the_declared_ones_stay():
    declared = {name: find_protocol(name).settings for name in protocol_names()}
    overrides = ["knn.k=1,5", "linear.learning_rates=[0.1, 0.3]", "semi1.share=0.05", "semi1.frozen=true"]
    changed = read_protocol_settings(
        [*overrides, "clusters.num_clusters=7", "semi10.labelled_ids=ids.txt", "knn.k=2", "semi1.decay_epochs="]
    )
    assert changed["knn"].k == (2,)
    assert changed["linear"].learning_rates == (0.1, 0.3)
    assert (changed["semi1"].share, changed["semi1"].frozen, changed["semi1"].decay_epochs) == (0.05, True, ())
    assert changed["clusters"].num_clusters == 7
    assert changed["semi10"].labelled_ids == "ids.txt"
    again = read_protocol_settings(["clusters.num_clusters=null"], changed)
    assert again["clusters"].num_clusters is None
    assert again["knn"].k == (2,)
    assert read_protocol_settings() == declared


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("knn.kk=1", r"unknown key `knn.kk`; the nearest valid key is `knn.k`"),
        ("kmn.k=1", r"unknown key `kmn.k`; the nearest valid key is `knn.k`"),
        ("k", r"expected dotted.key=value"),
        ("linear.epochs=1.5", r"`linear.epochs`: expected int, got 1.5"),
        ("semi1.frozen=maybe", r"`semi1.frozen`: expected true or false, got 'maybe'"),
        ("knn.k=one", r"`knn.k\[0\]`: expected int, got 'one'"),
        ("linear.epochs=0", r"`epochs` must be >= 1, got 0"),
        ("semi1.share=2", r"`share` must be above 0"),
        ("finetune.normalize=length", r"expected one of none, batch_norm, unit_batch_norm"),
    ],
)
def test_an_override_that_can_mean_nothing_is_quoted(override, message):
    with pytest.raises(SettingsError, match=rf"^override '.*': .*{message}") as raised:
        read_protocol_settings([override])
    assert f"'{override}'" in str(raised.value)


def test_help_documents_every_setting_once():
    text = describe_protocols()
    documented = set()
    for name in protocol_names():
        settings = find_protocol(name).settings
        assert f"\n{name}: " in f"\n{text}"
        if type(settings) not in documented:
            assert all(f"\n  {name}.{key}: " in text for key in vars(settings))
            documented.add(type(settings))
    lines = text.splitlines()
    for line, following in itertools.pairwise(lines):
        assert not line.startswith("  clusters.") or following.startswith("      ")
    assert "\n      numbers of neighbours, measured in one pass" in text
    assert "semi1: Fine-tuning on 1 % of the labels" in text
    assert "\n  settings as finetune, but share=0.01 head_learning_rate=5.0" in text
    assert "(45 values)" in text
