"""MSF's loss, search, state and diagnostics."""

import copy
import io

import pytest
import torch
import torch.nn.functional as F

import ssl_zoo
from ssl_zoo.models.msf.loss_msf import mean_shift_loss
from tests.two_processes import run_in_two_processes


BACKBONE = {"architecture": "resnet18", "model_args": {"channels": [8, 16, 24, 32], "layers": [1, 1, 1, 1]}}
HEADS = {"projector_hidden_features": [16], "projection_features": 8, "predictor_hidden_features": [16]}
# Layer norm only: batch norm would see other batches.
PLAIN = {
    "architecture": "vit_tiny_patch16_224",
    "model_args": {"embed_dim": 24, "depth": 2, "num_heads": 2, "img_size": 32},
    "projector_hidden_features": [],
    "predictor_hidden_features": [],
    "projection_features": 8,
}


def _model(**fields):
    torch.manual_seed(0)
    defaults = {"bank_size": 20, "num_neighbors": 3}
    return ssl_zoo.MsfForPreTraining(ssl_zoo.MsfConfig(**{**BACKBONE, **HEADS, **defaults, **fields})).train()


def _batch(step=0, batch=6, classes=3):
    generator = torch.Generator().manual_seed(step)
    views = [torch.randn(batch, 3, 32, 32, generator=generator) for _ in range(2)]
    ids = torch.arange(batch) + batch * step
    return {"views": views, "sample_ids": ids, "labels": ids % classes}


def _train(model, steps, first=0, **options):
    """A few steps of training without an optimiser: the online network stays as it is."""
    outputs = []
    for step in range(first, first + steps):
        outputs.append(model(**_batch(step, **options)))
        model.update_state([outputs[-1]], progress=0.5, epoch=step / 4)
    return outputs


def test_loss_of_agreement_and_of_opposition():
    unit = F.normalize(torch.randn(4, 8), dim=-1)
    everything = torch.ones(4, 3, dtype=torch.bool)
    neighbors = unit.unsqueeze(1).expand(4, 3, 8)
    assert mean_shift_loss(5 * unit, neighbors, everything).item() == pytest.approx(0.0, abs=1e-6)
    assert mean_shift_loss(-unit, neighbors, everything).item() == pytest.approx(4.0, abs=1e-5)


def test_forward_agrees_with_the_method_step_by_step():
    model = _model()
    _train(model, 3)
    reference, batch = copy.deepcopy(model), _batch(3)
    output = model(**batch)
    weak, strong = batch["views"]

    features = reference.timm_model(strong)
    predictions = F.normalize(reference.predictor(reference.projector(features)), dim=1)
    with torch.no_grad():
        targets = F.normalize(reference.target_projector(reference.target_backbone(weak)), dim=1)
    bank = reference.bank.embeddings.clone()  # 18 of 20 filled: enqueue the 6 rows, round the end
    for row in range(6):
        bank[(18 + row) % 20] = targets[row]
    expected = 0.0
    for row in range(6):
        order = (bank - targets[row]).square().sum(dim=1).argsort()[:3]
        assert torch.equal(bank[order[0]], targets[row])  # first itself
        expected += (predictions[row] - bank[order]).square().sum(dim=1).mean() / 6
    torch.testing.assert_close(output.loss, expected)
    torch.testing.assert_close(output.embeddings, features)
    torch.testing.assert_close(output.targets, targets)


def test_one_neighbour_is_byol_in_one_direction():
    """With k = 1 the neighbour is the target itself (MSF, section 3)."""
    model = _model(num_neighbors=1)
    _train(model, 2)
    reference, batch = copy.deepcopy(model), _batch(5)
    _, predictions = reference._online(batch["views"][1])
    targets = reference._target(batch["views"][0])
    expected = (2 - 2 * F.cosine_similarity(predictions, targets)).mean()
    torch.testing.assert_close(model(**batch).loss, expected)


def test_gradient_reaches_every_online_tensor_and_no_target_tensor():
    model = _model()
    for name, parameter in model.named_parameters():
        if name.startswith("timm_model") and name.endswith("bn2.weight"):
            torch.nn.init.ones_(parameter)  # timm starts each block's last norm at 0, which hides the block
    model(**_batch()).loss.backward()
    for name, parameter in model.named_parameters():
        if name.startswith("target_"):
            assert parameter.grad is None, name
        else:
            assert parameter.grad is not None, name
            # A bias right before batch norm has no effect.
            assert parameter.grad.abs().sum() > 0 or name.endswith("0.bias"), name


def test_forward_changes_nothing_but_batch_norm_statistics():
    model = _model()
    _train(model, 2)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model(**_batch(2))
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed
    assert all(name.endswith(("running_mean", "running_var", "num_batches_tracked")) for name in changed)


def test_update_state_writes_all_micro_batches_and_moves_the_target():
    model = _model(momentum=0.9, momentum_end=0.9)
    outputs = [model(**_batch(step, batch=4)) for step in range(2)]
    before = {name: tensor.clone() for name, tensor in model.named_parameters()}
    with torch.no_grad():
        for parameter in (*model.timm_model.parameters(), *model.projector.parameters()):
            parameter.add_(1.0)
    model.update_state(outputs, progress=0.3, epoch=0.1)
    assert model.bank.num_filled == model.bank.position == 8
    assert model.bank.sample_ids[:8].tolist() == list(range(8))
    torch.testing.assert_close(model.bank.embeddings[:8], torch.cat([output.targets for output in outputs]))
    for name, parameter in model.named_parameters():
        if name.startswith("target_"):
            torch.testing.assert_close(parameter, before[name] + 0.1, rtol=0, atol=1e-6)


def test_order_within_the_batch_doesnt_matter():
    model, shuffled = _model(**PLAIN), _model(**PLAIN)
    order = torch.randperm(6)
    batch = _batch()
    moved = {"views": [view[order] for view in batch["views"]], "sample_ids": batch["sample_ids"][order]}
    torch.testing.assert_close(model(**batch).loss, shuffled(**moved).loss)


def test_a_batch_larger_than_the_bank_is_searched_as_far_as_it_fits():
    model = _model(bank_size=4, num_neighbors=4)
    output = model(**_batch(batch=9))
    bank = output.targets[-4:]
    predictions = F.normalize(_model(bank_size=4, num_neighbors=4)._online(_batch(batch=9)["views"][1])[1], dim=1)
    torch.testing.assert_close(output.loss, (predictions[:, None] - bank).square().sum(dim=2).mean())
    model.update_state([output], progress=0.0, epoch=0.0)
    assert sorted(model.bank.sample_ids.tolist()) == [5, 6, 7, 8]


def test_purity_doesnt_count_the_image_itself():
    model = _model(bank_size=12, num_neighbors=12)
    _train(model, 1)
    output = model(**_batch(1))  # all of 12 entries: ids 0 to 11, classes id % 3
    assert output.purity.item() == pytest.approx(3 / 11)
    bank = torch.cat([model.bank.embeddings[:6], output.targets])
    distances = (output.targets[:, None] - bank).square().sum(dim=2)
    assert output.neighbor_distance.item() == pytest.approx(distances.sum().item() / (6 * 11), rel=1e-4)
    ages = [age for row in range(6) for age in range(12) if age != 5 - row]
    assert output.neighbor_age.item() == pytest.approx(sum(ages) / len(ages) / 12, rel=1e-5)
    assert output.bank_filled.item() == 1.0


def test_the_same_image_at_an_earlier_visit_doesnt_count_either():
    model = _model(bank_size=12, num_neighbors=12)
    _train(model, 1)
    again = model(**_batch(0))
    assert again.purity.item() == pytest.approx(2 / 10)  # classes of 2: each meets its other image twice


def test_diagnostics_can_be_left_out_and_change_nothing():
    with_them, without = _model()(**_batch()), _model()(**_batch(), diagnostics=False)
    assert torch.equal(with_them.loss, without.loss)
    assert without.purity is None
    assert without.projection_std is None
    unlabelled = _model()(_batch()["views"])
    assert torch.equal(unlabelled.loss, with_them.loss)
    assert unlabelled.purity is None
    assert unlabelled.neighbor_distance == with_them.neighbor_distance  # without ids the nearest is the image itself


def test_state_goes_through_a_checkpoint_and_training_goes_on_exactly():
    model, file = _model(), io.BytesIO()
    _train(model, 4)
    torch.save(model.state_dict(), file)
    file.seek(0)
    resumed = _model()
    resumed.load_state_dict(torch.load(file, weights_only=True))
    ends = [_train(either, 3, first=4)[-1].loss for either in (model, resumed)]
    assert torch.equal(*ends)
    assert all(torch.equal(tensor, resumed.state_dict()[name]) for name, tensor in model.state_dict().items())


def test_a_published_model_has_no_bank_and_loads_with_an_empty_one(tmp_path):
    model = _model()
    _train(model, 2)
    model.save_pretrained(tmp_path)
    loaded, info = ssl_zoo.MsfForPreTraining.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    assert loaded.bank.num_filled == 0
    assert (loaded.bank.sample_ids == -1).all()
    torch.testing.assert_close(loaded.target_projector.state_dict(), model.target_projector.state_dict())
    assert not any(p.requires_grad for p in loaded.train().target_backbone.parameters())


def test_one_view_is_refused():
    with pytest.raises(ValueError, match="at least 2, got 1"):
        _model()(_batch()["views"][:1])


@pytest.mark.parametrize(
    ("field", "value"),
    [("bank_size", 0), ("num_neighbors", 0), ("momentum", 1.2), ("momentum_end", -0.1), ("projection_features", 0)],
)
def test_values_out_of_range_are_named(field, value):
    with pytest.raises(Exception, match=f"`{field}` must be .* got {value}"):
        ssl_zoo.MsfConfig(**{field: value})


def test_more_neighbours_than_the_bank_holds_are_refused():
    with pytest.raises(Exception, match="at most `bank_size` = 4, got 5"):
        ssl_zoo.MsfConfig(bank_size=4, num_neighbors=5)


def test_layers_are_the_authors():
    """Names and shapes of the released ResNet-50 checkpoint's heads: Linear (bias), BN, ReLU, Linear (bias)."""
    config = ssl_zoo.MsfConfig()
    with torch.device("meta"):
        model = ssl_zoo.MsfForPreTraining(config)
    shapes = {name: list(tensor.shape) for name, tensor in model.projector.state_dict().items()}
    assert shapes["0.weight"] == [4096, 2048]
    assert shapes["0.bias"] == [4096]
    assert shapes["3.weight"] == [512, 4096]
    assert shapes["3.bias"] == [512]
    assert list(model.predictor[0].weight.shape) == [4096, 512]
    assert list(model.bank.embeddings.shape) == [128000, 512]


def test_health_says_what_is_wrong_and_what_helps():
    healthy = {"loss": 0.5, "projection_std": 0.8, "bank_filled": 1.0, "neighbor_age": 0.4}
    model = _model()
    assert model.health(healthy) == []
    (collapsed,) = model.health({**healthy, "projection_std": 0.03})
    assert "collapsed" in collapsed
    assert "raise `momentum`" in collapsed
    (stale,) = model.health({**healthy, "neighbor_age": 0.02})
    assert "newest 4% of the bank" in stale
    assert model.health({**healthy, "neighbor_age": 0.02, "bank_filled": 0.3}) == []


def _steps(process, steps):
    """Losses, gradients, diagnostics and bank of one process on its share of the batches; by two and by none."""
    model = _model(**PLAIN)
    results = []
    for batch in steps:
        share = batch
        if process is not None:
            share = {
                "views": [view.chunk(2)[process] for view in batch["views"]],
                "sample_ids": batch["sample_ids"].chunk(2)[process],
                "labels": batch["labels"].chunk(2)[process],
            }
        output = model(**share)
        model.zero_grad()
        output.loss.backward()
        gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        model.update_state([output], progress=0.0, epoch=0.0)
        results.append((output.loss.item(), gradient, output.purity.item(), output.projection_std.item()))
    return results, {name: tensor.clone() for name, tensor in model.bank.state_dict().items()}


def test_two_processes_are_one():
    steps = [_batch(step, batch=8) for step in range(4)]
    whole, bank = _steps(None, steps)
    halves = run_in_two_processes(_steps, steps)
    for step in range(4):
        loss, gradient, purity, std = whole[step]
        assert sum(half[0][step][0] for half in halves) / 2 == pytest.approx(loss, rel=1e-5)
        torch.testing.assert_close(sum(half[0][step][1] for half in halves) / 2, gradient, rtol=1e-3, atol=1e-6)
        for half in halves:
            assert half[0][step][2:] == pytest.approx((purity, std), rel=1e-5)
    for half in halves:
        for name, tensor in bank.items():
            torch.testing.assert_close(half[1][name], tensor, rtol=0, atol=1e-6)
    assert all(torch.equal(halves[0][1][name], halves[1][1][name]) for name in bank)
