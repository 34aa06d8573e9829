"""SeLa's loss, label table, moments, collecting pass, state and diagnostics."""

import copy
import json
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModelForPreTraining

import ssl_zoo
from ssl_zoo.functional.sinkhorn import sinkhorn_labels
from ssl_zoo.models.sela.label_solve_sela import Storage, collect
from ssl_zoo.models.sela.loss_sela import balanced_labels, sela_loss, solves_due
from tests.two_processes import run_in_two_processes


RESNET = {"architecture": "resnet18", "model_args": {"channels": [8, 16, 24, 32], "layers": [1, 1, 1, 1]}}
VIT = {  # no batch norm: what one image gives doesn't depend on the batch
    "architecture": "vit_tiny_patch16_224",
    "model_args": {"embed_dim": 24, "depth": 2, "num_heads": 2, "img_size": 32},
}


def _model(backbone=RESNET, **fields):
    torch.manual_seed(0)
    defaults = {"num_clusters": 5, "num_heads": 3, "strength": 25.0, "num_samples": 60, "num_solves": 4}
    return ssl_zoo.SelaForPreTraining(ssl_zoo.SelaConfig(**{**backbone, **defaults, **fields})).train()


def _images(count=60, size=32):
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))


class FakeData:
    """Training images in memory; `seed` decides the order. Rank 0 gets `share` of the rows, the other the rest."""

    def __init__(self, images, batch_size=8, rank=0, share=1.0, missing=()):
        self.images, self.num_samples, self.batch_size = images, len(images), batch_size
        self.rank, self.share, self.missing = rank, share, list(missing)
        self.seeds = []

    def one_pass(self, *, seed, description):
        self.seeds.append(seed)
        order = torch.randperm(self.num_samples, generator=torch.Generator().manual_seed(seed))
        order = order[~torch.isin(order, torch.tensor(self.missing, dtype=torch.int64))]
        boundary = round(len(order) * self.share)
        parts = [order[:boundary], order[boundary:]]
        batches = list(parts[self.rank].split(self.batch_size))
        longest = max(math.ceil(len(part) / self.batch_size) for part in parts)
        for number in range(longest if self.share < 1.0 else len(batches)):
            ids = batches[min(number, len(batches) - 1)]
            yield [self.images[ids]], ids if number < len(batches) else torch.full_like(ids, -1)


def _solve(model, data, *, epoch=0.0, epochs=10.0):
    return model.before_step(data, images_seen=round(epoch * data.num_samples), epoch=epoch, progress=epoch / epochs)


def test_loss_is_the_cross_entropy_of_each_head_over_all_views():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 4, 3, 5, generator=generator, dtype=torch.float32)
    labels = torch.randint(5, (3, 4), generator=generator, dtype=torch.int32)
    expected = [
        sum(F.cross_entropy(logits[view, :, head], labels[head].long()) for view in range(2)) / 2 for head in range(3)
    ]
    torch.testing.assert_close(sela_loss(logits, labels), torch.stack(expected))
    assert sela_loss(torch.zeros(1, 4, 3, 7), labels).tolist() == pytest.approx([math.log(7)] * 3)


def test_labels_start_balanced_random_and_different_for_each_head():
    labels = balanced_labels(3, 103, 10, seed=0)
    assert labels.dtype == torch.int32
    for row in labels:
        assert sorted(torch.bincount(row).tolist()) == [10] * 7 + [11] * 3
    assert not torch.equal(labels[0], labels[1])
    assert torch.equal(labels, balanced_labels(3, 103, 10, seed=0))
    assert not torch.equal(labels, balanced_labels(3, 103, 10, seed=1))
    model = _model(label_seed=4)
    assert torch.equal(model.label_table, balanced_labels(3, 60, 5, seed=4))


def test_the_table_takes_nothing_from_the_random_state_of_the_weights():
    weights = [_model(num_samples=number).heads.weight for number in (10, 60)]
    assert torch.equal(*weights)


@pytest.mark.parametrize(("spacing", "power", "margin"), [("quadratic", 2, 1.01), ("linear", 1, 1.0001)])
def test_moments_are_the_published_ones(spacing, power, margin):
    epochs, num_solves, num_samples, batch = 8, 7, 1000, 40
    moments = [(epochs + margin) * num_samples * (index / (num_solves - 1)) ** power for index in range(num_solves)]
    for step in range(epochs * num_samples // batch):
        due = solves_due(
            step * batch / num_samples, epochs=epochs, num_solves=num_solves, spacing=spacing, margin_epochs=margin
        )
        assert due == sum(moment <= step * batch for moment in moments)
    options = {"epochs": 8, "spacing": spacing, "margin_epochs": margin}
    assert solves_due(0.0, num_solves=1, **options) == solves_due(7.0, num_solves=1, **options) == 1


def test_the_first_solve_comes_before_the_first_step_and_no_two_in_one_step():
    model, data = _model(num_solves=3, solve_margin_epochs=0.0, solve_spacing="linear"), FakeData(_images())
    assert _solve(model, data, epoch=0.0)["labels_changed"] > 0
    assert _solve(model, data, epoch=0.0) == {}
    assert _solve(model, data, epoch=4.9) == {}
    assert _solve(model, data, epoch=10.0)  # two moments have come: one solve a step
    assert _solve(model, data, epoch=10.0)
    assert _solve(model, data, epoch=10.0) == {}
    assert data.seeds == [0, 1, 2]


def test_solved_labels_are_those_of_the_whole_procedure():
    """All features in one forward pass, one softmax, one solve per head: no streaming, no chunks."""
    model, images = _model(VIT, num_samples=60), _images()
    reference = copy.deepcopy(model)
    numbers = _solve(model, FakeData(images))
    with torch.no_grad():
        logits = reference.heads(reference.timm_model(images)).view(60, 3, 5)
    for head in range(3):
        expected = sinkhorn_labels(torch.log_softmax(logits[:, head].double(), dim=1), strength=25.0)
        assert torch.equal(model.label_table[head].long(), expected)
    changed = (model.label_table != reference.label_table).float().mean()
    assert numbers["labels_changed"] == pytest.approx(changed.item())
    sizes = torch.stack([torch.bincount(row, minlength=5) for row in model.label_table])
    assert numbers["smallest_cluster"] == pytest.approx(sizes.amin(dim=1).float().mean().item())
    assert numbers["largest_cluster"] == pytest.approx(sizes.amax(dim=1).float().mean().item())
    assert numbers["empty_clusters"] == pytest.approx((sizes == 0).float().mean().item())
    shares = sizes / 60
    assert numbers["label_entropy"] == pytest.approx(torch.special.entr(shares).sum(dim=1).mean().item(), rel=1e-5)
    assert numbers["solve_iters"] >= 10
    assert numbers["solve_gib"] == pytest.approx(2**-30 * (4 * 24 * (2**25 // 96) + 4 * 60 * 5))


def test_round_robin_solves_one_head_at_a_time():
    model = _model(solve_heads="round_robin", num_solves=5, solve_spacing="linear", solve_margin_epochs=0.0)
    data = FakeData(_images())
    for number, epoch in enumerate([0.0, 2.5, 5.0, 7.5]):
        before = model.label_table.clone()
        assert _solve(model, data, epoch=epoch)
        changed = (model.label_table != before).any(dim=1).tolist()
        assert changed == [head == number % 3 for head in range(3)]


def test_images_that_were_not_seen_keep_their_labels():
    model = _model()
    before = model.label_table.clone()
    missing = [0, 7, 31, 40]  # 56 are left: no batch of a single image, which batch norm refuses
    _solve(model, FakeData(_images(), missing=missing))
    assert torch.equal(model.label_table[:, missing], before[:, missing])
    assert not torch.equal(model.label_table, before)


def test_a_pass_moves_batch_norm_and_nothing_else():
    model = _model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.get_rng_state()
    _solve(model, FakeData(_images()))
    assert torch.equal(torch.get_rng_state(), state)
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert {"label_table", "num_solves", "timm_model.bn1.running_mean"} <= changed
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    assert all(name.endswith(statistics) for name in changed - {"label_table", "num_solves"})
    assert all(parameter.grad is None for parameter in model.parameters())


def test_dropout_of_the_pass_is_a_function_of_the_solve_alone():
    tiny = {"channels": [8, 12, 16, 16, 12], "hidden_features": 20}
    tables = []
    for seed in (1, 2):
        model = _model(architecture="alexnet_bn", model_args=tiny)
        torch.manual_seed(seed)
        _solve(model, FakeData(_images(size=64)))
        tables.append(model.label_table)
    assert torch.equal(*tables)
    undropped = _model(architecture="alexnet_bn", model_args={**tiny, "drop_rate": 0.0})
    _solve(undropped, FakeData(_images(size=64)))
    assert not torch.equal(undropped.label_table, tables[0])


def test_a_resumed_run_goes_on_with_the_same_labels_and_moments(tmp_path):
    data = FakeData(_images())
    straight = _model(num_solves=6)
    _solve(straight, data)
    straight.save_pretrained(tmp_path)
    resumed = AutoModelForPreTraining.from_pretrained(tmp_path).train()
    assert torch.equal(resumed.label_table, straight.label_table)
    assert int(resumed.num_solves) == 1
    for epoch in (0.1, 0.5, 2.0, 9.0):
        first, second = (_solve(model, FakeData(_images()), epoch=epoch) for model in (straight, resumed))
        assert first.keys() == second.keys()
        assert torch.equal(resumed.label_table, straight.label_table)
    assert int(resumed.num_solves) > 2


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_disk_and_memory_give_equal_labels_and_no_file_stays(tmp_path, dtype):
    tables = []
    for storage, kernel in (("memory", 1.0), ("memory", 0.0), ("disk", 0.0)):
        model = _model(
            VIT, solve_storage=storage, solve_folder=str(tmp_path), solve_kernel_gib=kernel, solve_dtype=dtype
        )
        _solve(model, FakeData(_images()))
        tables.append(model.label_table)
    assert torch.equal(tables[0], tables[1])
    assert torch.equal(tables[0], tables[2])
    assert list(tmp_path.iterdir()) == []


def test_files_vanish_after_an_error_too(tmp_path):
    model = _model(solve_storage="disk", solve_folder=str(tmp_path))

    class Failing(FakeData):
        def one_pass(self, *, seed, description):
            yield from list(super().one_pass(seed=seed, description=description))[:2]
            assert list(tmp_path.iterdir())
            raise RuntimeError("the network cable")

    with pytest.raises(RuntimeError, match="cable"):
        _solve(model, Failing(_images()))
    assert list(tmp_path.iterdir()) == []
    assert int(model.num_solves) == 0


def test_a_file_has_no_name_while_it_is_in_use(tmp_path):
    with Storage(on_disk=True, folder=str(tmp_path)) as storage:
        matrix = storage.empty(3, 4, torch.float16)
        matrix.fill_(2.0)
        assert matrix.sum() == 24.0
        assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert storage.num_bytes == 24
    assert matrix.sum() == 24.0


@pytest.mark.parametrize("on_disk", [False, True])
def test_features_are_stored_in_blocks_whatever_the_batches(monkeypatch, tmp_path, on_disk):
    monkeypatch.setattr("ssl_zoo.models.sela.label_solve_sela._BLOCK_BYTES", 7 * 6 * 4)  # 7 rows
    data = FakeData(_images(23, size=4), batch_size=5)
    with Storage(on_disk=on_disk, folder=str(tmp_path)) as storage:
        features = collect(
            data.one_pass(seed=3, description=""), lambda view: view.flatten(1)[:, :6], storage, torch.float32
        )
    assert [len(block) for block in features.blocks] == [7, 7, 7, 2]
    assert storage.num_bytes == 4 * 7 * 6 * 4  # no more is allocated than the features, up to a block
    assert torch.equal(torch.cat(features.blocks), data.images[features.sample_ids].flatten(1)[:, :6])


def test_forward_uses_the_labels_of_the_samples():
    model = _model()
    ids = torch.tensor([7, 59, 0, 12])
    images = _images()[ids]
    reference = copy.deepcopy(model)
    output = model([images], sample_ids=ids)
    assert torch.equal(output.pseudo_labels, model.label_table[:, ids])
    logits = reference.heads(reference.timm_model(images)).view(4, 3, 5)
    expected = [F.cross_entropy(logits[:, head], model.label_table[head, ids].long()) for head in range(3)]
    torch.testing.assert_close(output.loss, sum(expected) / 3)
    assert output.embeddings.shape == (4, 32)


def test_gradient_reaches_every_parameter_and_forward_changes_only_batch_norm():
    model = _model()
    for name, parameter in model.named_parameters():
        if name.endswith("bn2.weight"):
            torch.nn.init.ones_(parameter)  # timm starts each block's last norm at 0, which hides the block
    before = {name: tensor.clone() for name, tensor in model.named_buffers()}
    model([_images(8)] * 2, sample_ids=torch.arange(8)).loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad.abs().sum() > 0, name
    changed = {name for name, tensor in model.named_buffers() if not torch.equal(tensor, before[name])}
    assert all(name.endswith(("running_mean", "running_var", "num_batches_tracked")) for name in changed)


def test_diagnostics():
    model = _model(VIT)
    ids, classes = torch.arange(12), torch.arange(12) % 2
    output = model([_images(12)], sample_ids=ids, labels=classes)
    logits = model.heads(model.timm_model(_images(12))).view(12, 3, 5)
    targets = model.label_table[:, :12].long()
    assert output.label_accuracy.item() == pytest.approx((logits.argmax(-1).T == targets).float().mean().item())
    losses = sela_loss(logits.unsqueeze(0), targets)
    torch.testing.assert_close(output.head_loss_spread, losses.max() - losses.min())
    pairs = [
        (classes[a] == classes[b]).item()
        for head in range(3)
        for a in range(12)
        for b in range(12)
        if a != b and targets[head, a] == targets[head, b]
    ]
    assert output.label_precision.item() == pytest.approx(sum(pairs) / len(pairs))
    assert output.prediction_entropy <= output.prediction_marginal_entropy <= math.log(5) + 1e-6
    assert output.label_marginal_entropy <= math.log(5) + 1e-6
    plain = model([_images(12)], sample_ids=ids, labels=classes, diagnostics=False)
    assert plain.label_accuracy is None
    assert torch.equal(plain.loss, output.loss)
    assert "label_precision" not in model([_images(12)], sample_ids=ids)
    assert model([_images(12)], sample_ids=ids, labels=torch.full((12,), -1)).label_precision == 0.0


def test_pseudo_labels_are_the_first_heads_predictions():
    model = _model().eval()
    labels, confidence = model.pseudo_labels(_images(6))
    logits = model.heads(model.timm_model(_images(6)))[:, :5]
    assert torch.equal(labels, logits.argmax(dim=1))
    torch.testing.assert_close(confidence, logits.softmax(dim=1).amax(dim=1))


def test_errors_name_the_cure():
    with pytest.raises(ValueError, match="pass `sample_ids`"):
        _model()([_images(2)])
    placeholder = _model(num_samples=None)
    assert placeholder.label_table.shape == (3, 0)
    with pytest.raises(ValueError, match="set `num_samples`"):
        placeholder([_images(2)], sample_ids=torch.arange(2))
    with pytest.raises(ValueError, match="59 columns, the training data 60"):
        _solve(_model(num_samples=59), FakeData(_images()))


def test_the_table_is_fitted_to_the_data():
    config = ssl_zoo.SelaConfig(**RESNET)
    config.fit_to_data(num_samples=40, num_classes=None, num_labelled=None)
    assert config.num_samples == 40
    config.fit_to_data(num_samples=40, num_classes=None, num_labelled=None)
    with pytest.raises(ValueError, match="`num_samples` is 40, but the training data has 41"):
        config.fit_to_data(num_samples=41, num_classes=None, num_labelled=None)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_clusters", 0),
        ("num_heads", 0),
        ("strength", 0.0),
        ("tolerance", -1.0),
        ("num_solves", 0),
        ("num_samples", 0),
    ],
)
def test_values_out_of_range_are_named(field, value):
    with pytest.raises(Exception, match=f"`{field}` must be .* got {value}"):
        ssl_zoo.SelaConfig(**{field: value})


def test_health_says_what_is_wrong():
    healthy = {"loss": 1.0, "epoch": 3.0, "label_accuracy": 0.6}
    healthy |= {"prediction_marginal_entropy": 1.5, "label_marginal_entropy": 1.6}
    assert _model().health(healthy) == []
    (crowded,) = _model().health({**healthy, "prediction_marginal_entropy": 0.3})
    assert "few clusters" in crowded
    (random,) = _model().health({**healthy, "label_accuracy": 0.2, "loss": 1.61})
    assert "as good as random" in random
    assert _model().health({**healthy, "label_accuracy": 0.2, "epoch": 0.5}) == []


def test_published_model_keeps_its_labels(tmp_path):
    model = _model()
    _solve(model, FakeData(_images()))
    model.save_pretrained(tmp_path)
    assert json.loads(Path(tmp_path / "config.json").read_text())["num_samples"] == 60
    again = AutoModelForPreTraining.from_pretrained(tmp_path)
    assert torch.equal(again.label_table, model.label_table)
    assert again.label_table.dtype == torch.int32


def _train_two_solves(process, images, share):
    """Two solves with a step between; run by two processes with unequal shares and by none."""
    data = FakeData(images) if process is None else FakeData(images, rank=process, share=share)
    model = _model(VIT, num_samples=len(images))
    numbers = _solve(model, data)
    ids = torch.arange(16)
    if process is not None:
        ids = ids.chunk(2)[process]
    output = model([images[ids]], sample_ids=ids, labels=ids % 2)
    output.loss.backward()
    gradient = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
    again = _solve(model, data, epoch=10.0)
    numbers = {**numbers, **{f"{name}_again": value for name, value in again.items()}}
    numbers = {name: value for name, value in numbers.items() if not name.startswith(("solve_gib", "solve_seconds"))}
    diagnostics = [output.prediction_marginal_entropy.item(), output.label_marginal_entropy.item()]
    return output.loss.item(), gradient, model.label_table, numbers, diagnostics


@pytest.mark.parametrize("share", [0.5, 0.75])
def test_two_processes_are_one(share):
    images = _images()
    loss, gradient, table, numbers, diagnostics = _train_two_solves(None, images, share)
    halves = run_in_two_processes(_train_two_solves, images, share)
    assert sum(half[0] for half in halves) / 2 == pytest.approx(loss, rel=1e-5)
    torch.testing.assert_close(sum(half[1] for half in halves) / 2, gradient, rtol=1e-3, atol=1e-6)
    for half in halves:
        assert torch.equal(half[2], table)
        assert half[3] == pytest.approx(numbers, rel=1e-5)
        assert half[4] == pytest.approx(diagnostics, rel=1e-5)
