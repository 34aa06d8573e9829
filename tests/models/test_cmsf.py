"""CMSF's constraints, loss, state and diagnostics, in all its variants."""

import copy
import io
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import ssl_zoo
from ssl_zoo.models.cmsf import constraints
from ssl_zoo.models.cmsf.classifier import PseudoLabelClassifier
from ssl_zoo.models.cmsf.constraints import ClusterTable, VisitTable
from ssl_zoo.models.cmsf.loss_cmsf import constrained_mean_shift_loss
from ssl_zoo.models.cmsf.modeling_cmsf import _moments
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
VARIANTS = {
    "visits": {},
    "kmeans": {"constraint": "kmeans", "num_clusters": 3},
    "semi": {"supervision": "semi", "confidence_threshold": 0.4, "classifier_hidden_features": [16]},
    "full": {"supervision": "full"},
}
NUM_SAMPLES, NUM_LABELLED = 18, 9
EVERY = pytest.mark.parametrize("variant", VARIANTS)


def _model(variant="visits", **fields):
    torch.manual_seed(0)
    defaults = {"bank_size": 20, "num_neighbors": 3, "num_candidates": 4}
    config = ssl_zoo.CmsfConfig(**{**BACKBONE, **HEADS, **defaults, **VARIANTS[variant], **fields})
    config.fit_to_data(num_samples=NUM_SAMPLES, num_classes=3, num_labelled=NUM_LABELLED)
    return ssl_zoo.CmsfForPreTraining(config).train()


def _batch(step=0, batch=6, share=None):
    """Epochs of three steps; classes are id % 3, and of ids below 9 they are known."""
    generator = torch.Generator().manual_seed(step)
    views = [torch.randn(batch, 3, 32, 32, generator=generator) for _ in range(2)]
    ids = (torch.arange(batch) + batch * step) % NUM_SAMPLES
    labels = ids % 3
    rows = slice(None) if share is None else slice(share * batch // 2, (share + 1) * batch // 2)
    return {
        "views": [view[rows] for view in views],
        "sample_ids": ids[rows],
        "labels": labels[rows],
        "known_labels": torch.where(ids < NUM_LABELLED, labels, -1)[rows],
    }


def _forward(model, batch, **options):
    return (
        model(**{name: value for name, value in batch.items() if name != "known_labels"}, **options)
        if (not model.config.learns_from_labels)
        else model(**batch, **options)
    )


def _train(model, steps, first=0, batch=6):
    output = None
    for step in range(first, first + steps):
        output = _forward(model, _batch(step, batch))
        model.update_state([output], progress=0.5, epoch=(step + 1) * batch / NUM_SAMPLES)
    return output


def _networks(model, batch):
    """Unit predictions and targets, computed by hand on a copy."""
    copied = copy.deepcopy(model)
    predictions = copied.predictor(copied.projector(copied.timm_model(batch["views"][1])))
    with torch.no_grad():
        targets = copied.target_projector(copied.target_backbone(batch["views"][0]))
    return F.normalize(predictions, dim=1), F.normalize(targets, dim=1)


def _enqueued(model, targets, ids):
    """Embeddings and ids of the bank after the batch, filled entries only."""
    embeddings, sample_ids = model.bank.embeddings.clone(), model.bank.sample_ids.clone()
    for row in range(len(targets)):
        slot = (int(model.bank.position) + row) % model.bank.size
        embeddings[slot], sample_ids[slot] = targets[row], ids[row]
    filled = min(int(model.bank.num_filled) + len(targets), model.bank.size)
    return embeddings[:filled], sample_ids[:filled]


def _distance(prediction, target, embeddings, k):
    """Mean squared distance of the prediction to the k entries nearest to the target."""
    order = (embeddings - target).square().sum(dim=1).argsort()[:k]
    return (prediction - embeddings[order]).square().sum(dim=1).mean()


def test_loss_averages_the_two_terms_where_there_is_a_constraint():
    constrained, plain = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.5, 1.0, 1.5])
    loss = constrained_mean_shift_loss(constrained, plain, torch.tensor([True, False, True]))
    assert loss.item() == pytest.approx((0.75 + 1.0 + 2.25) / 3)
    assert constrained_mean_shift_loss(constrained).item() == pytest.approx(2.0)


@pytest.mark.parametrize("k", [2, 4, 6])
def test_previous_visits_limit_the_search(k):
    model = _model(num_neighbors=k)
    history = {}
    for step in range(5):  # one epoch, and two steps of the next
        _, targets = _networks(model, _batch(step))
        for sample_id, target in zip(_batch(step)["sample_ids"].tolist(), targets, strict=True):
            history.setdefault(sample_id, []).append(target)
        _train(model, 1, first=step)
    batch = _batch(5)
    predictions, targets = _networks(model, batch)
    embeddings, ids = _enqueued(model, targets, batch["sample_ids"])
    # Each entry's embedding one visit before the one that is in the bank; its own where there was none.
    for sample_id, target in zip(batch["sample_ids"].tolist(), targets, strict=True):
        history[sample_id].append(target)
    visits = torch.stack([history[i][-2] if len(history[i]) > 1 else history[i][-1] for i in ids.tolist()])
    for entry, sample_id in enumerate(ids.tolist()):  # 20 entries of 18 ids: two ids are in the bank twice
        if torch.equal(embeddings[entry], history[sample_id][0]):
            visits[entry] = history[sample_id][0]
    expected = 0.0
    for row, sample_id in enumerate(batch["sample_ids"].tolist()):
        own = history[sample_id][0]
        candidates = (visits - own).square().sum(dim=1).argsort()[:4]
        constrained = _distance(predictions[row], targets[row], embeddings[candidates], k)
        expected += (constrained + _distance(predictions[row], targets[row], embeddings, k)) / 2 / 6
    output = _forward(model, batch)
    assert output.constrained_share == 1
    torch.testing.assert_close(output.loss, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("variant", ["visits", "kmeans", "semi"])
def test_without_a_constraint_it_is_plain_msf(variant):
    """The first epoch, images never seen, and images without a confident pseudo-label."""
    model = _model(variant, confidence_threshold=1.0)
    plain = ssl_zoo.MsfConfig(**BACKBONE, **HEADS, bank_size=20, num_neighbors=3)
    torch.manual_seed(0)
    msf = ssl_zoo.MsfForPreTraining(plain).train()
    msf.load_state_dict({name: tensor for name, tensor in model.state_dict().items() if name in msf.state_dict()})
    for step in range(2):
        batch = _batch(step)
        batch["known_labels"][:] = -1
        output = _forward(model, batch)
        reference = msf(batch["views"], sample_ids=batch["sample_ids"], labels=batch["labels"])
        torch.testing.assert_close(output.loss, reference.loss)
        assert output.constrained_share == 0
        assert output.purity is None
        model.update_state([output], progress=0.0, epoch=0.1)
        msf.update_state([reference], progress=0.0, epoch=0.1)


def test_unseen_images_are_plain_beside_seen_ones():
    model = _model()
    _train(model, 1)
    batch = _batch(1)
    batch["sample_ids"] = torch.tensor([0, 1, 2, 6, 7, -1])
    predictions, targets = _networks(model, batch)
    embeddings, _ = _enqueued(model, targets, batch["sample_ids"])
    output = _forward(model, batch)
    assert output.constrained_share.item() == pytest.approx(0.5)
    visits = torch.cat([model.bank.embeddings[:6], model.visits.embeddings[:3].float(), targets[3:]])
    expected = 0.0
    for row in range(6):
        plain = constrained = _distance(predictions[row], targets[row], embeddings, 3)
        if row < 3:
            candidates = (visits - visits[6 + row]).square().sum(dim=1).argsort(stable=True)[:4]
            constrained = _distance(predictions[row], targets[row], embeddings[candidates], 3)
        expected += (plain + constrained) / 2 / 6
    torch.testing.assert_close(output.loss, expected, rtol=1e-4, atol=1e-5)


def _same_label_loss(model, batch, own, entries):
    """Rows search entries of their label, rows with -1 all of the bank; entries with -1 are in no set."""
    predictions, targets = _networks(model, batch)
    embeddings, ids = _enqueued(model, targets, batch["sample_ids"])
    labels = torch.tensor(entries(ids))
    losses = []
    for row, label in enumerate(own.tolist()):
        allowed = labels == label if label >= 0 else torch.ones_like(labels, dtype=torch.bool)
        losses.append(_distance(predictions[row], targets[row], embeddings[allowed], 3))
    return torch.stack(losses)


def test_full_supervision_searches_the_class():
    model = _model("full")
    _train(model, 2)
    batch = _batch(2)
    batch["known_labels"][:] = torch.tensor([0, 1, 2, 0, 1, -1])
    known = {**{i: i % 3 for i in range(9)}, **dict.fromkeys((9, 10, 11), -1)}
    known |= dict(zip(batch["sample_ids"].tolist(), batch["known_labels"].tolist(), strict=True))
    losses = _same_label_loss(model, batch, batch["known_labels"], lambda ids: [known[i] for i in ids.tolist()])
    output = _forward(model, batch)
    torch.testing.assert_close(output.loss, losses.mean())
    assert output.constrained_share.item() == pytest.approx(5 / 6)
    # 18 entries: three of each class in the first two batches, and those of this one.
    assert output.num_candidates.item() == pytest.approx((5 + 5 + 4 + 5 + 5) / 5)
    assert output.purity is not None
    assert output.plain_purity is None


def test_fewer_entries_of_the_class_than_neighbours_are_averaged_alone():
    model = _model("full", num_neighbors=10)
    batch = _batch()
    batch["known_labels"][:] = torch.tensor([0, 0, 1, 2, 2, 2])
    predictions, targets = _networks(model, batch)
    distances = (predictions[:, None] - targets).square().sum(dim=2)
    expected = sum(distances[row, batch["known_labels"] == batch["known_labels"][row]].mean() for row in range(6)) / 6
    torch.testing.assert_close(_forward(model, batch).loss, expected)


def test_pseudo_labels_stand_in_where_they_are_confident():
    model = _model("semi")
    _train(model, 6)
    assert model.classifier.is_trained
    batch = _batch(6)  # ids 0 to 5; two of them stay labelled
    batch["known_labels"][2:] = -1
    _, targets = _networks(model, batch)
    probability, label = model.classifier.network(targets).softmax(dim=1).max(dim=1)
    threshold = probability[2:].sort().values[1:3].mean().item()  # two of four are confident
    model.config.confidence_threshold = threshold
    own = torch.where(probability >= threshold, label, -1)
    own[:2] = batch["known_labels"][:2]
    assert (own < 0).sum() == 2
    stored = model.bank.constraint_labels.clone()
    for row in range(6):
        stored[(int(model.bank.position) + row) % 20] = own[row]
    losses = _same_label_loss(model, batch, own, lambda ids: stored.tolist())
    output = _forward(model, batch)
    torch.testing.assert_close(output.loss, losses.mean())
    assert output.pseudo_label_coverage.item() == pytest.approx(0.5)
    right = (own == batch["labels"])[2:] & (own[2:] >= 0)
    assert output.pseudo_label_accuracy.item() == pytest.approx(right.sum().item() / 2)
    model.update_state([output], progress=0.0, epoch=0.0)
    assert torch.equal(model.bank.constraint_labels, stored)


def test_kmeans_searches_the_cluster_as_it_is_now():
    model = _model("kmeans")
    _train(model, 4)
    assert model.clusters.num_solved == 1
    batch = _batch(4)
    model.clusters.ids[:] = torch.arange(NUM_SAMPLES) % 4 - 1  # not as when the entries were written
    own = model.clusters.look_up(batch["sample_ids"])
    constrained = _same_label_loss(model, batch, own, lambda ids: model.clusters.ids[ids].tolist())
    plain = _same_label_loss(model, batch, torch.full_like(own, -1), lambda ids: [-1] * len(ids))
    output = _forward(model, batch)
    torch.testing.assert_close(output.loss, torch.where(own >= 0, (constrained + plain) / 2, plain).mean())
    assert output.constrained_share.item() == pytest.approx((own >= 0).float().mean().item())


def test_visits_keep_the_last_and_leave_out_rows_without_id():
    table = VisitTable(5, 2)
    rows = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8], [0.8, 0.6]])
    table.write_(torch.tensor([3, 1, -1, 3]), rows)
    assert table.seen.tolist() == [False, True, False, True, False]
    found, seen = table.look_up(torch.tensor([3, 1, 0, -1]), -rows)
    assert seen.tolist() == [True, True, False, False]
    torch.testing.assert_close(found.float(), torch.stack([rows[3], rows[1], -rows[2], -rows[3]]), rtol=0, atol=1e-3)


@pytest.mark.skipif(sys.platform != "linux", reason="reads the resident memory from /proc")
@pytest.mark.usefixtures("one_core")
def test_a_table_takes_memory_as_images_are_visited():
    def resident():
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20

    before = resident()
    table = VisitTable(500_000, 512)  # 488 MiB
    assert resident() - before < 50
    table.write_(torch.arange(100_000), torch.ones(1, 512).expand(100_000, 512))
    assert resident() - before > 90
    assert not table.embeddings[100_000:100_100].any()


def test_a_cast_model_guesses_and_trains_its_classifier():
    model = _model("semi", **PLAIN).to(torch.bfloat16)
    for step in range(3):
        batch = _batch(step)
        batch["views"] = [view.bfloat16() for view in batch["views"]]
        output = _forward(model, batch)
        assert output.loss.isfinite()
        model.update_state([output], progress=0.0, epoch=(step + 1) / 3)
    assert model.classifier.num_trainings > 0
    label, probability = model.classifier(torch.ones(2, 8))
    assert (label.dtype, probability.dtype) == (torch.int64, torch.float32)
    assert model.classifier.probabilities(torch.ones(2, 8)).sum(dim=1).tolist() == pytest.approx([1.0, 1.0])


def test_clusters_are_found_again_and_again_alike():
    generator = torch.Generator().manual_seed(0)
    centres = F.normalize(torch.randn(4, 16, generator=generator), dim=1)
    truth = torch.arange(200) % 4
    points = F.normalize(centres[truth] + 0.05 * torch.randn(200, 16, generator=generator), dim=1)
    visits, tables = VisitTable(210, 16), [ClusterTable(210, 16, 4) for _ in range(2)]
    visits.write_(torch.arange(200), points)
    for table in tables:
        table.solve_when_due_(visits, moment=1)
    assert torch.equal(tables[0].ids, tables[1].ids)
    assert torch.equal(tables[0].centroids, tables[1].centroids)
    assert (tables[0].ids[200:] == -1).all()
    pairs = set(zip(truth.tolist(), tables[0].ids[:200].tolist(), strict=True))
    assert len(pairs) == 4  # a renaming
    confidence, clusters = tables[0].probabilities(points).max(dim=1)
    assert torch.equal(clusters, tables[0].ids[:200])
    assert confidence.min() > 0.9
    assert tables[0].sizes().tolist() == [50] * 4
    before = tables[0].ids.clone()
    visits.embeddings.zero_()
    tables[0].solve_when_due_(visits, moment=1)  # was done
    assert torch.equal(tables[0].ids, before)


def test_fewer_images_than_clusters_leave_no_cluster_near_by():
    visits, table = VisitTable(6, 4), ClusterTable(6, 4, 5)
    points = torch.eye(4)[:3]
    visits.write_(torch.arange(3), points)
    table.solve_when_due_(visits, moment=1)
    assert sorted(table.ids[:3].tolist()) == [0, 1, 2]
    assert torch.equal(table.probabilities(points).argmax(dim=1), table.ids[:3])
    assert table.probabilities(-points).argmax(dim=1).max() < 3


def test_kmeans_without_the_library_says_what_to_install(monkeypatch):
    monkeypatch.setattr(constraints, "find_spec", lambda name: None)
    model = _model("kmeans")
    with pytest.raises(ImportError, match="pip install scikit-learn"):
        _train(model, 3)


def _separable(count=240, seed=0):
    generator = torch.Generator().manual_seed(seed)
    centres = F.normalize(torch.randn(3, 8, generator=torch.Generator().manual_seed(7)), dim=1)
    labels = torch.randint(0, 3, (count,), generator=generator)
    return F.normalize(centres[labels] + 0.1 * torch.randn(count, 8, generator=generator), dim=1), labels


def test_classifier_learns_the_labelled_and_leaves_no_gradient():
    torch.manual_seed(0)
    classifier = PseudoLabelClassifier(8, [16], 3, 240)
    classifier.train()
    projections, labels = _separable()
    assert classifier(projections)[1].max() == 0  # not trained yet
    known = torch.where(torch.arange(240) % 4 > 0, labels, -1)
    classifier.remember_(projections, known, torch.arange(240))
    assert classifier.cache.num_filled == 180
    config = ssl_zoo.CmsfConfig(classifier_learning_rate=0.1, classifier_batch_size=32)
    with torch.no_grad():
        classifier.fit_when_due_(config, moment=1)
    guess, probability = classifier(projections)
    assert (guess == labels).float().mean() > 0.98
    assert classifier.accuracy > 0.98
    assert probability.median() > 0.85
    assert not classifier.network.training
    assert all(p.grad is None and not p.requires_grad for p in classifier.parameters())
    before = {name: tensor.clone() for name, tensor in classifier.state_dict().items()}
    classifier.fit_when_due_(config, moment=1)  # was done
    assert all(torch.equal(tensor, before[name]) for name, tensor in classifier.state_dict().items())


def test_classifier_is_trained_by_plain_sgd():
    """One pass, one batch: a step of SGD by hand."""
    torch.manual_seed(0)
    classifier = PseudoLabelClassifier(8, [16], 3, 10)
    projections, labels = _separable(10)
    classifier.remember_(projections, labels, labels)
    network = copy.deepcopy(classifier.network).train().requires_grad_()
    loss = F.cross_entropy(network(projections), labels)
    gradients = torch.autograd.grad(loss, list(network.parameters()))
    config = ssl_zoo.CmsfConfig(classifier_epochs=1, classifier_learning_rate=0.3, classifier_weight_decay=0.01)
    classifier.fit_when_due_(config, moment=1)
    for trained, parameter, gradient in zip(
        classifier.network.parameters(), network.parameters(), gradients, strict=True
    ):
        torch.testing.assert_close(trained, (parameter - 0.3 * (gradient + 0.01 * parameter)).detach())


def test_classifier_is_trained_twice_an_epoch_and_clusters_once():
    semi, kmeans = _model("semi", classifier_every_epochs=0.5), _model("kmeans")
    trained, solved = [], []
    for step in range(9):  # three steps an epoch
        _train(semi, 1, first=step)
        _train(kmeans, 1, first=step)
        trained.append(int(semi.classifier.num_trainings))
        solved.append(int(kmeans.clusters.num_solved))
    assert trained == [0, 1, 2, 2, 3, 4, 4, 5, 6]
    assert solved == [0, 0, 1, 1, 1, 2, 2, 2, 3]


def test_moments_survive_rounding():
    assert 0.3 / 0.1 < 3
    assert [_moments(epoch, 0.1) for epoch in (0.0, 0.09, 0.1, 0.29, 0.3)] == [0, 0, 1, 2, 3]
    assert _moments(1.49, 0.5) == 2


@EVERY
def test_gradient_reaches_every_online_tensor_and_nothing_else(variant):
    model = _model(variant)
    for name, parameter in model.named_parameters():
        if name.startswith("timm_model") and name.endswith("bn2.weight"):
            torch.nn.init.ones_(parameter)  # timm starts each block's last norm at 0, which hides the block
    _train(model, 3)
    _forward(model, _batch(3)).loss.backward()
    for name, parameter in model.named_parameters():
        if name.startswith(("target_", "classifier.")):
            assert parameter.grad is None, name
            assert not parameter.requires_grad, name
        else:
            assert parameter.grad is not None, name
            # A bias right before batch norm has no effect.
            assert parameter.grad.abs().sum() > 0 or name.endswith("0.bias"), name


@EVERY
def test_forward_changes_nothing_but_batch_norm_statistics(variant):
    model = _model(variant)
    _train(model, 4)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    _forward(model, _batch(4))
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed
    assert all(name.endswith(("running_mean", "running_var", "num_batches_tracked")) for name in changed)
    assert not any(name.startswith("classifier") for name in changed)


@EVERY
def test_diagnostics_can_be_left_out_and_change_nothing(variant):
    models = [_model(variant) for _ in range(2)]
    for model in models:
        _train(model, 4)
    with_them, without = _forward(models[0], _batch(4)), _forward(models[1], _batch(4), diagnostics=False)
    assert torch.equal(with_them.loss, without.loss)
    assert without.constrained_share is None
    assert 0 <= with_them.purity <= 1
    filled = {name for name, value in with_them.items() if value.ndim == 0}
    assert ("plain_purity" in filled) == (variant in ("visits", "kmeans"))
    assert ("classifier_accuracy" in filled) == (variant == "semi")
    assert ("cluster_entropy" in filled) == (variant == "kmeans")


@EVERY
def test_state_goes_through_a_checkpoint_and_training_goes_on_exactly(variant):
    model, file = _model(variant), io.BytesIO()
    _train(model, 5)
    torch.save(model.state_dict(), file)
    file.seek(0)
    resumed = _model(variant)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    torch.manual_seed(99)  # nothing may depend on the global generators
    first = _train(model, 5, first=5).loss
    torch.manual_seed(7)
    assert torch.equal(first, _train(resumed, 5, first=5).loss)
    assert all(torch.equal(tensor, resumed.state_dict()[name]) for name, tensor in model.state_dict().items())


@EVERY
def test_a_published_model_has_no_tables_and_keeps_its_pseudo_labels(variant, tmp_path):
    model = _model(variant)
    _train(model, 4)
    model.save_pretrained(tmp_path)
    loaded, info = ssl_zoo.CmsfForPreTraining.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    assert loaded.bank.num_filled == 0
    assert (loaded.bank.sample_ids == -1).all()
    images = _batch()["views"][0]
    if variant in ("semi", "kmeans"):
        for left, right in zip(model.eval().pseudo_labels(images), loaded.pseudo_labels(images), strict=True):
            torch.testing.assert_close(left, right)
        restarted = loaded.classifier.num_trainings if variant == "semi" else loaded.clusters.num_solved
        assert restarted == 0
    else:
        assert not hasattr(loaded, "pseudo_labels")
    _train(loaded.train(), 4)


def test_missing_inputs_are_named():
    views = _batch()["views"]
    with pytest.raises(ValueError, match="at least 2, got 1"):
        _model()(views[:1], sample_ids=torch.zeros(6))
    with pytest.raises(ValueError, match="needs `sample_ids`"):
        _model()(views)
    with pytest.raises(ValueError, match="needs `known_labels`"):
        _model("semi")(views)
    unfitted = ssl_zoo.CmsfForPreTraining(ssl_zoo.CmsfConfig(**BACKBONE, **HEADS, bank_size=20))
    with pytest.raises(ValueError, match="`num_samples`, got None"):
        unfitted(views, sample_ids=torch.arange(6))


@pytest.mark.parametrize("supervision", ["semi", "full"])
def test_data_without_labels_is_refused_where_labels_are_learned_from(supervision):
    config = ssl_zoo.CmsfConfig(supervision=supervision)
    with pytest.raises(ValueError, match=r"no classes and no labelled images: check `data.label_column`"):
        config.fit_to_data(num_samples=10, num_classes=None, num_labelled=None)
    config.fit_to_data(num_samples=10, num_classes=3, num_labelled=5)
    assert (config.num_samples, config.num_supervised_classes, config.num_labelled) == (10, 3, 5)
    ssl_zoo.CmsfConfig().fit_to_data(num_samples=10, num_classes=None, num_labelled=None)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("bank_size", 0),
        ("num_candidates", 0),
        ("num_clusters", 0),
        ("momentum", 1.2),
        ("confidence_threshold", 1.5),
        ("classifier_every_epochs", 0.0),
        ("classifier_weight_decay", -1.0),
    ],
)
def test_values_out_of_range_are_named(field, value):
    with pytest.raises(Exception, match=f"`{field}` must be .* got {value}"):
        ssl_zoo.CmsfConfig(**{field: value})


def test_classifier_is_the_authors():
    """Names and shapes of the released checkpoint's mlp_head: 512 -> 1024 (BN) -> 1000 for ResNet-50 on ImageNet."""
    config = ssl_zoo.CmsfConfig(supervision="semi")
    config.fit_to_data(num_samples=1281167, num_classes=1000, num_labelled=128116)
    with torch.device("meta"):
        model = ssl_zoo.CmsfForPreTraining(config)
    shapes = {name: list(tensor.shape) for name, tensor in model.classifier.network.state_dict().items()}
    assert shapes["0.weight"] == [1024, 512]
    assert shapes["1.running_var"] == [1024]
    assert shapes["3.weight"] == [1000, 1024]
    assert len(model.classifier.cache.labels) == 128116


def test_health_says_what_is_wrong_and_what_helps():
    healthy = {
        "projection_std": 0.8,
        "constrained_share": 1.0,
        "num_candidates": 5.0,
        "bank_filled": 1.0,
        "epoch": 3.0,
    }
    model = _model()
    assert model.health(healthy) == []
    (collapsed,) = model.health({**healthy, "projection_std": 0.03})
    assert "collapsed" in collapsed
    (free,) = model.health({**healthy, "constrained_share": 0.01})
    assert "plain MSF" in free
    assert model.health({**healthy, "constrained_share": 0.0, "epoch": 0.5}) == []
    (alone,) = model.health({**healthy, "num_candidates": 1.1})
    assert "raise `bank_size`" in alone


def _steps(process, variant):
    """Losses, gradients and state of one process on its share of the batches; by two processes and by none."""
    model = _model(variant, **PLAIN)
    results = []
    for step in range(9):
        output = _forward(model, _batch(step, share=process))
        model.zero_grad()
        output.loss.backward()
        gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        model.update_state([output], progress=0.0, epoch=(step + 1) / 3)
        results.append((output.loss.item(), gradient))
    scalars = sorted(name for name, value in output.items() if value.ndim == 0)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    return results, state, scalars, None if output.purity is None else output.purity.item()


@EVERY
def test_two_processes_are_one(variant):
    whole, state, scalars, purity = _steps(None, variant)
    halves = run_in_two_processes(_steps, variant)
    other_neighbors = []  # where two of the bank are equally near up to rounding
    for step, (loss, gradient) in enumerate(whole):
        if sum(half[0][step][0] for half in halves) / 2 != pytest.approx(loss, rel=1e-4):
            other_neighbors.append(step)
        else:
            torch.testing.assert_close(sum(half[0][step][1] for half in halves) / 2, gradient, rtol=1e-3, atol=2e-5)
    assert len(other_neighbors) <= 1
    for half in halves:
        assert half[2] == scalars
        assert half[3] == pytest.approx(purity)
        for name, tensor in state.items():
            torch.testing.assert_close(half[1][name], tensor, rtol=0, atol=2e-3 if tensor.is_floating_point() else 0)
    tables = ("bank.", "visits.", "clusters.", "classifier.")
    assert all(torch.equal(halves[0][1][n], halves[1][1][n]) for n in state if n.startswith(tables))
