"""Average precision, checked against a second, plain implementation and by hand."""

import numpy as np
import pytest
import torch
from torchvision.ops import box_iou

from ssl_zoo.detection.coco import DetectionTable, score_detections


def table(truth, found, *, images=(0, 1, 2)):
    """From rows of truth (image, box, class, area, iscrowd, difficult) and found (image, box, score, class)."""
    return DetectionTable(
        torch.tensor([[number, 200, 200] for number in images], dtype=torch.float64),
        torch.tensor([[i, *box, label, area, crowd, hard] for i, box, label, area, crowd, hard in truth]).double(),
        torch.tensor([[i, *box, score, label] for i, box, score, label in found]).double().reshape(-1, 7),
    )


def plain_average_precision(data, threshold, *, num_classes, recalls):
    """Greedy matching by score, decreasing precision, read at some recalls; no crowds, areas or difficult boxes."""
    values = []
    for label in range(num_classes):
        truth, found = data.truth[data.truth[:, 5] == label], data.detections[data.detections[:, 6] == label]
        if not len(truth):
            continue
        hits, used = [], set()
        for row in found[found[:, 5].argsort(descending=True, stable=True)]:
            candidates = (truth[:, 0] == row[0]).nonzero().flatten().tolist()
            best, best_iou = None, threshold
            for index in candidates:
                iou = float(box_iou(truth[index : index + 1, 1:5], row[None, 1:5]))
                if index not in used and iou >= best_iou:
                    best, best_iou = index, iou
            hits.append(best is not None)
            used.add(best)
        true = np.cumsum(hits)
        recall, precision = true / len(truth), true / np.arange(1, len(hits) + 1)
        at = [precision[recall >= wanted - 1e-12] for wanted in recalls]
        values.append(np.mean([part.max() if part.size else 0.0 for part in at]))
    return float(np.mean(values))


def random_table(seed):
    generator = np.random.default_rng(seed)
    truth, found = [], []
    for image in range(6):
        for _ in range(generator.integers(0, 5)):
            x, y = generator.uniform(0, 120, 2)
            w, h = generator.uniform(10, 70, 2)
            label = int(generator.integers(3))
            truth.append((image, (x, y, x + w, y + h), label, w * h, 0, 0))
            for _ in range(generator.integers(0, 3)):
                shift = generator.normal(0, 4, 4)
                box = np.array([x, y, x + w, y + h]) + shift
                guess = label if generator.random() < 0.8 else int(generator.integers(3))
                found.append((image, tuple(box), float(generator.random()), guess))
    return table(truth, found, images=range(6))


@pytest.mark.parametrize("seed", range(4))
def test_equals_a_plain_implementation(seed):
    data = random_table(seed)
    scores = score_detections(data, num_classes=3)
    thresholds = [0.5 + 0.05 * step for step in range(10)]
    for recalls, found in (
        (np.linspace(0, 1, 101), (scores.ap, scores.ap50, scores.ap75)),
        (np.linspace(0, 1, 11), (scores.voc_ap, scores.voc_ap50, scores.voc_ap75)),
    ):
        each = [plain_average_precision(data, t, num_classes=3, recalls=recalls) for t in thresholds]
        np.testing.assert_allclose(found, (np.mean(each), each[0], each[5]), atol=1e-6)


BOX, AWAY = (10.0, 10.0, 60.0, 60.0), (100.0, 100.0, 180.0, 180.0)
ONE = (0, BOX, 0, 2500.0, 0, 0)


def test_perfect_missing_and_wrong():
    perfect = score_detections(table([ONE], [(0, BOX, 0.9, 0)]), num_classes=2)
    assert (perfect.ap, perfect.ap50, perfect.voc_ap75) == pytest.approx((1, 1, 1))
    assert perfect.ap_small is None
    assert perfect.ap_medium == pytest.approx(1)
    assert score_detections(table([ONE], []), num_classes=2).ap == 0
    assert score_detections(table([ONE], [(1, BOX, 0.9, 0)]), num_classes=2).ap == 0  # on another image
    assert score_detections(table([ONE], [(0, BOX, 0.9, 1)]), num_classes=2).ap == 0  # of another class
    first_wrong = score_detections(table([ONE], [(0, AWAY, 0.95, 0), (0, BOX, 0.9, 0)]), num_classes=2)
    assert first_wrong.ap50 == pytest.approx(0.5)


def test_a_difficult_box_needs_not_be_found_and_may_be():
    hard = (0, AWAY, 0, 6400.0, 0, 1)
    for found in ([], [(0, AWAY, 0.99, 0)]):
        scores = score_detections(table([ONE, hard], [(0, BOX, 0.9, 0), *found]), num_classes=1)
        assert scores.ap == pytest.approx(1)


def test_a_crowd_swallows_what_lies_in_it():
    crowd = (0, (90.0, 90.0, 200.0, 200.0), 0, 12100.0, 1, 0)
    found = [(0, (100.0, 100.0, 120.0, 120.0), 0.99, 0), (0, (130.0, 130.0, 150.0, 150.0), 0.98, 0)]
    scores = score_detections(table([ONE, crowd], [(0, BOX, 0.9, 0), *found]), num_classes=1)
    assert scores.ap == pytest.approx(1)


def test_what_cannot_be_scored_is_refused(capsys):
    with pytest.raises(ValueError, match="no box that counts"):
        score_detections(table([(0, BOX, 0, 1.0, 0, 1)], []), num_classes=1)
    with pytest.raises(ValueError, match="measured twice"):
        score_detections(table([ONE], [], images=(0, 0)), num_classes=1)
    with pytest.raises(ValueError, match="isn't finite"):
        score_detections(table([ONE], [(0, BOX, float("nan"), 0)]), num_classes=1)
    assert capsys.readouterr().out == ""
