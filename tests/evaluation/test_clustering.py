import numpy as np
import pytest
from sklearn.metrics import normalized_mutual_info_score

from ssl_zoo.evaluation.clustering import ClusteringAgreement, normalized_mutual_information


@pytest.mark.parametrize(
    ("num_classes", "num_clusters", "noise"), [(10, 40, 0.2), (3, 2, 0.5), (10, 10, 1.0), (5, 1, 0)]
)
def test_agrees_with_scikit_learn(num_classes, num_clusters, noise):
    rng = np.random.default_rng(0)
    classes = rng.integers(num_classes, size=500)
    clusters = np.where(rng.random(500) < noise, rng.integers(num_clusters, size=500), classes % num_clusters)
    expected = normalized_mutual_info_score(classes, clusters)
    assert normalized_mutual_information(classes, clusters) == pytest.approx(expected, abs=1e-12)
    assert normalized_mutual_information(clusters, classes) == pytest.approx(expected, abs=1e-12)


def test_names_of_the_clusters_do_not_count():
    assert normalized_mutual_information([0, 0, 1, 2], [70, 70, -3, 10**12]) == pytest.approx(1.0)
    assert normalized_mutual_information([0, 0, 0], [5, 5, 5]) == 1.0
    assert normalized_mutual_information([0, 1, 0, 1], [0, 0, 1, 1]) == pytest.approx(0.0, abs=1e-15)


def test_as_a_metric_of_evaluate():
    metric = ClusteringAgreement(keep_in_memory=True)
    metric.add_batch(predictions=np.array([7, 7]), references=np.array([0, 0]))
    metric.add_batch(predictions=np.array([3, 7]), references=np.array([1, 1]))
    assert metric.compute() == {"nmi": pytest.approx(normalized_mutual_info_score([0, 0, 1, 1], [7, 7, 3, 7]))}


@pytest.mark.parametrize(("references", "predictions"), [([], []), ([0, 1], [0]), ([[0]], [[0]])])
def test_what_does_not_fit_is_refused(references, predictions):
    with pytest.raises(ValueError, match="vectors of one length"):
        normalized_mutual_information(references, predictions)
