"""Plain supervised training: loss, labels that don't count, processes, predictions."""

import math

import pytest
import torch
import torch.nn.functional as F
from huggingface_hub.errors import StrictDataclassError

import ssl_zoo
from ssl_zoo.models.supervised.loss_supervised import supervised_loss
from tests.two_processes import run_in_two_processes


BACKBONE = {"architecture": "resnet18", "model_args": {"channels": [8, 8, 8, 16], "layers": [1, 1, 1, 1]}}


def _model(**fields):
    torch.manual_seed(0)
    config = ssl_zoo.SupervisedConfig(**{**BACKBONE, "num_supervised_classes": 5, **fields})
    return ssl_zoo.SupervisedForPreTraining(config).train()


def _images(count=6, seed=1):
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_loss_is_torchs(smoothing):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 7, 5, generator=generator, dtype=torch.float64)
    labels = torch.tensor([0, 4, -1, 2, 2, -1, 1])
    losses = supervised_loss(logits, labels, smoothing=smoothing)
    assert (losses[labels < 0] == 0).all()
    for view in range(2):
        expected = F.cross_entropy(logits[view], labels, ignore_index=-1, reduction="none", label_smoothing=smoothing)
        assert torch.allclose(supervised_loss(logits[view : view + 1], labels, smoothing=smoothing), expected)
    both = F.cross_entropy(
        logits.flatten(0, 1), labels.repeat(2), ignore_index=-1, reduction="none", label_smoothing=smoothing
    )
    torch.testing.assert_close(losses, both.view(2, -1).mean(dim=0))


def test_half_precision_costs_nothing():
    logits = (20 * torch.randn(1, 4, 5, generator=torch.Generator().manual_seed(0))).to(torch.bfloat16)
    labels = torch.arange(4)
    torch.testing.assert_close(supervised_loss(logits, labels), supervised_loss(logits.float(), labels))


def test_images_without_a_known_label_are_no_part_of_the_loss():
    model = _model()
    known = torch.tensor([0, -1, 3, -1, 1, -1])
    output = model([_images()], known_labels=known, labels=torch.zeros(6, dtype=torch.int64))
    logits = model.head(model.timm_model(_images()))  # batch norm sees all six
    rows = known >= 0
    torch.testing.assert_close(output.loss, F.cross_entropy(logits[rows], known[rows]))
    assert output.labelled_share == 0.5
    right = (logits.argmax(dim=1) == known)[rows].float().mean()
    torch.testing.assert_close(output.label_accuracy, right)
    # Classes that may not be learned from change nothing.
    other = model([_images()], known_labels=known, labels=torch.full((6,), 4))
    assert torch.equal(other.loss, output.loss)


def test_a_batch_without_any_label_is_a_zero_with_gradients():
    model = _model()
    output = model([_images()], known_labels=torch.full((6,), -1))
    output.loss.backward()
    assert output.loss == 0
    assert all((parameter.grad == 0).all() for parameter in model.parameters())
    assert "no image of the step" in model.health({**_scalars(output), "epoch": 3.0})[0]


def _scalars(output):
    return {name: value.item() for name, value in output.items() if value.ndim == 0}


def part_of_a_batch(rank):
    """Losses and gradient of the head on uneven shares of six images, and of labels among them."""
    model = _model().eval()  # batch norm apart, which is each process's own
    rows = slice(0, 4) if rank == 0 else slice(4, 6)
    known = torch.tensor([0, -1, -1, -1, 1, 2])[rows]
    output = model([_images()[rows]], known_labels=known)
    output.loss.backward()
    return _scalars(output), model.head.weight.grad


def test_two_processes_average_to_one():
    (first, first_grad), (second, second_grad) = run_in_two_processes(part_of_a_batch)
    model = _model().eval()
    output = model([_images()], known_labels=torch.tensor([0, -1, -1, -1, 1, 2]))
    output.loss.backward()
    assert (first["loss"] + second["loss"]) / 2 == pytest.approx(output.loss.item(), rel=1e-5)
    torch.testing.assert_close((first_grad + second_grad) / 2, model.head.weight.grad)
    for name, value in _scalars(output).items():
        if name != "loss":
            assert first[name] == pytest.approx(value, rel=1e-5) == second[name], name


def test_it_learns():
    model = _model()
    labels = torch.arange(6) % 5
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    first = None
    for _ in range(40):
        output = model([_images()], known_labels=labels)
        first = first or output.loss.item()
        output.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert output.loss < 0.2 * first
    assert output.label_accuracy == 1
    model.train(False)
    assert model.health({**_scalars(output), "epoch": 3.0}) == []


def test_predictions_are_the_heads():
    model = _model().eval()
    probabilities = model.cluster_probabilities(_images())
    assert probabilities.shape == (6, 1, 5)
    assert probabilities.dtype == torch.float32
    torch.testing.assert_close(probabilities[:, 0], model.head(model.timm_model(_images())).softmax(dim=1))
    labels, confidence = model.pseudo_labels(_images())
    assert torch.equal(labels, probabilities[:, 0].argmax(dim=1))
    assert torch.equal(confidence, probabilities[:, 0].amax(dim=1))


def test_the_number_of_classes_is_the_datas():
    config = ssl_zoo.SupervisedConfig(**BACKBONE)
    config.fit_to_data(num_samples=9, num_classes=7, num_labelled=3)
    assert config.num_supervised_classes == 7
    assert ssl_zoo.SupervisedForPreTraining(config).head.out_features == 7
    config.fit_to_data(num_samples=9, num_classes=6, num_labelled=3)
    with pytest.raises(ValueError, match="is 7, but the labels name 8 classes"):
        config.fit_to_data(num_samples=9, num_classes=8, num_labelled=3)
    with pytest.raises(ValueError, match="no classes and no labelled images"):
        config.fit_to_data(num_samples=9, num_classes=None, num_labelled=None)


def test_errors_name_the_cure():
    with pytest.raises(ValueError, match="needs `known_labels`"):
        _model()([_images()])
    with pytest.raises(ValueError, match="fit_to_data"):
        _model(num_supervised_classes=None)([_images()], known_labels=torch.zeros(6, dtype=torch.int64))
    with pytest.raises(StrictDataclassError, match=r"`label_smoothing` must be in \[0, 1\), got 1"):
        ssl_zoo.SupervisedConfig(label_smoothing=1)
    assert (
        "all classes alike"
        in _model().health({"labelled_share": 1.0, "epoch": 2.0, "prediction_entropy": math.log(5)})[0]
    )
