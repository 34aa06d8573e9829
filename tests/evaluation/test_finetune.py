"""Classifiers learn from the labels they may see, and don't change frozen parameters."""

import copy
import math

import pytest
import torch
from torch import nn

from ssl_zoo.data.errors import DataError
from ssl_zoo.data.labelled import choose_labelled
from ssl_zoo.data.source import DataConfig, open_source
from ssl_zoo.data.views import RawPixels
from ssl_zoo.evaluation.classifier import finetune, labelled_source
from ssl_zoo.evaluation.protocols.finetune import FinetuneSettings
from ssl_zoo.features.extract import Reading
from tests.data.tiny_sets import write_parquet
from tests.two_processes import run_in_two_processes


VIEW = RawPixels(8)
READING = Reading(batch_size=16, num_workers=0)
# Images of row r have red r and class r % 3: only memorising tells the classes apart.
FAST = FinetuneSettings(epochs=40, batch_size=12, learning_rate=0.1, head_learning_rate=20.0, crop_scale=(1.0, 1.0))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = write_parquet(tmp_path_factory.mktemp("sets") / "pets", (9, 3, 12))
    return write_parquet(folder, (24,), split="test")


def source_of(folder, split="train", **options):
    return open_source(DataConfig(path=str(folder), split=split, **options))


class Bumps(nn.Module):
    """Features of the mean red: radial functions around centres, which are trained."""

    def __init__(self):
        super().__init__()
        self.centres = nn.Parameter(torch.arange(24.0))

    def forward(self, images):
        red = 255 * images[:, 0].mean(dim=(1, 2))
        return torch.exp(-2 * (red[:, None] - self.centres) ** 2)


def run(folder, settings, *, backbone=None, train=None):
    return finetune(
        backbone or Bumps(),
        train or source_of(folder),
        source_of(folder, "test"),
        VIEW,
        settings,
        num_classes=3,
        reading=READING,
    )


def test_it_learns_and_is_the_same_again(folder):
    found = run(folder, FAST)
    assert found.top1 == 1.0
    assert found.top5 is None
    assert (found.num_train, found.num_test) == (24, 24)
    assert run(folder, FAST) == found
    untrained = run(folder, FinetuneSettings(epochs=1, batch_size=12, learning_rate=0.0, head_learning_rate=0.0))
    assert untrained.top1 < 0.6
    assert untrained.final_loss == pytest.approx(math.log(3), abs=0.05)


def test_a_frozen_backbone_is_left_as_it_is(folder):
    backbone = nn.Sequential(Bumps(), nn.BatchNorm1d(24))
    before = copy.deepcopy(backbone.state_dict())
    run(folder, FinetuneSettings(epochs=2, batch_size=12, frozen=True), backbone=backbone)
    assert all(torch.equal(tensor, before[name]) for name, tensor in backbone.state_dict().items())
    run(folder, FinetuneSettings(epochs=2, batch_size=12, learning_rate=0.1), backbone=backbone)
    assert not any(torch.equal(tensor, before[name]) for name, tensor in backbone.state_dict().items())


def test_only_the_labelled_images_are_seen(folder):
    whole = source_of(folder)
    config = DataConfig(path=str(folder), labelled_share=0.25, labelled_seed=3)
    subset = choose_labelled(whole, config)
    part = labelled_source(whole, subset)
    seen = {}
    for shard in range(part.num_shards):
        for row in part.rows(shard, 0, 1):
            seen[row.sample_id] = row.label
    assert list(seen.values()) == subset.known_labels[subset.ids].tolist()
    assert part.num_rows == len(subset.ids) == 6
    found = run(folder, FAST, train=part)
    assert found.num_train == 6
    assert 0.25 <= found.top1 < 0.8  # the rows that it saw, and few others


def test_labels_that_are_missing_are_not_learned_from_and_not_counted(folder, tmp_path):
    write_parquet(tmp_path / "pets", (24,))
    with pytest.raises(DataError, match="no labels to test"):
        finetune(
            Bumps(),
            source_of(folder),
            _without_labels(source_of(folder, "test")),
            VIEW,
            FinetuneSettings(epochs=1, batch_size=12),
            num_classes=3,
            reading=READING,
        )


def _without_labels(source):
    source.label_column = None
    return source


def on_a_process(rank, folder):
    backbone = Bumps()
    found = run(folder, FAST, backbone=backbone)
    return found, backbone.centres.detach()


def test_two_processes_train_one_network(folder):
    (first, centres), (second, others) = run_in_two_processes(on_a_process, folder)
    assert first == second
    assert torch.equal(centres, others)
    assert first.top1 == 1.0


class Broken(Bumps):
    def forward(self, images):
        return super().forward(images) / 0.0


def test_divergence_is_said(folder):
    with pytest.raises(ValueError, match=r"loss of the classifier became nan at step 1 of 80: .* its rates"):
        run(folder, FAST, backbone=Broken())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epochs": 0}, "`epochs` must be > 0"),
        ({"head_learning_rate": -1.0}, "`head_learning_rate` must be >= 0"),
        ({"normalize": "layer"}, "`normalize` must be one of none, batch_norm, unit_batch_norm, got 'layer'"),
        ({"share": 1.5}, "`share` must be above 0"),
    ],
)
def test_impossible_settings_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        FinetuneSettings(**values)
