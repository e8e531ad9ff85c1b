"""metrics.py against scikit-learn, against numbers worked out by hand, and against a plain bootstrap."""

import numpy as np
import pytest
from sklearn import metrics as reference

from faces import people
from judge import metrics


def made_up(n=400, n_classes=2, seed=3):
    """Probabilities that know something of the labels, with ties: float64 [n, C], int [n]."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, n_classes, n)
    logits = rng.normal(size=(n, n_classes)).round(1) + 1.2 * np.eye(n_classes)[labels]
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return probabilities, labels


def summary(probabilities, labels, missed=(), clusters=None):
    """metrics.summary(), of photos that belong together as `clusters` says; each stands alone where there are none."""
    missed = np.array(missed, int)
    clusters = np.arange(len(labels) + len(missed)) if clusters is None else np.asarray(clusters)
    return metrics.summary(probabilities, labels, missed, clusters)


def counts(hits, totals):
    """metrics.counted() of so many photos of each class that stand alone, the first of them right."""
    labels = np.repeat(np.arange(len(totals)), totals)
    correct = np.concatenate([np.arange(n) < k for k, n in zip(hits, totals, strict=True)])
    return metrics.counted(labels, correct, np.arange(len(labels)), len(totals))


@pytest.mark.parametrize("n_classes", [2, 4])
def test_summary_agrees_with_scikit_learn(n_classes):
    probabilities, labels = made_up(n_classes=n_classes)
    predicted = probabilities.argmax(1)
    result = summary(probabilities, labels)
    precision, recall, f1, _ = reference.precision_recall_fscore_support(labels, predicted)
    assert result["precision"] == pytest.approx(precision, abs=1e-6)
    assert result["recall"] == pytest.approx(recall, abs=1e-6)
    assert result["f1"] == pytest.approx(f1, abs=1e-6)
    assert result["confusion"] == reference.confusion_matrix(labels, predicted).tolist()
    assert result["accuracy"] == pytest.approx(reference.accuracy_score(labels, predicted), abs=1e-6)
    assert result["balanced_accuracy"] == pytest.approx(reference.balanced_accuracy_score(labels, predicted), abs=1e-6)
    assert result["loss"] == pytest.approx(reference.log_loss(labels, probabilities), abs=1e-5)
    scores = probabilities[:, 1] if n_classes == 2 else probabilities
    expected = reference.roc_auc_score(labels, scores, multi_class="ovr", average="macro")
    assert result["auc"] == pytest.approx(expected, abs=1e-6)


def test_roc_treats_equal_scores_as_one_step():
    positive, scores = np.array([1, 0, 1, 0, 0], bool), np.array([0.9, 0.9, 0.5, 0.5, 0.1])
    x, y = metrics.roc_curve(positive, scores)
    reference_x, reference_y, _ = reference.roc_curve(positive, scores, drop_intermediate=False)
    assert x == pytest.approx(reference_x)
    assert y == pytest.approx(reference_y)


def test_one_class_only_has_no_auc_and_no_invented_recall():
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7]])
    result = summary(probabilities, np.zeros(3, int))
    assert result["auc"] is None
    assert result["recall"] == [pytest.approx(2 / 3, abs=1e-6), None]
    assert result["balanced_accuracy"] == pytest.approx(2 / 3, abs=1e-6)
    assert result["precision"][1] == 0


def test_ece_by_hand():
    # Two bins: 0.62 and 0.64 (one of two right), 0.97 and 0.99 (both right). |0.5 - 0.63| / 2 + |1 - 0.98| / 2
    ece, count, mean, accuracy = metrics.reliability([0.62, 0.64, 0.97, 0.99], [1, 0, 1, 1])
    assert ece == pytest.approx((0.13 + 0.02) / 2)
    assert count[[9, 14]].tolist() == [2, 2] and count.sum() == 4
    assert mean[9] == pytest.approx(0.63) and accuracy[9] == pytest.approx(0.5)
    assert np.isnan(mean[0])
    # The edges: 1.0 belongs to the last bin, 2/3 to the bin that it closes.
    assert metrics.reliability([1.0, 10 / 15], [1, 1])[1][[9, 14]].tolist() == [1, 1]


def test_bootstrap_agrees_with_drawing_photos():
    probabilities, labels = made_up(n=150)
    correct = probabilities.argmax(1) == labels
    totals = np.bincount(labels)
    accuracy_ci, balanced_ci = metrics.bootstrap(counts(np.bincount(labels, correct).astype(int), totals))
    rng = np.random.default_rng(99)
    accuracy, balanced = [], []
    for _ in range(3000):
        drawn = rng.integers(0, len(labels), len(labels))
        accuracy.append(correct[drawn].mean())
        balanced.append(np.mean([correct[drawn][labels[drawn] == c].mean() for c in (0, 1)]))
    assert accuracy_ci == pytest.approx(np.quantile(accuracy, [0.025, 0.975]), abs=0.012)
    assert balanced_ci == pytest.approx(np.quantile(balanced, [0.025, 0.975]), abs=0.012)
    assert metrics.bootstrap(counts([5, 3], [9, 9]), seed=1) == metrics.bootstrap(counts([5, 3], [9, 9]), seed=1)


def test_photos_of_one_person_are_drawn_together():
    """Against a plain bootstrap of people; thirty photos of a person tell as much as one where all are alike."""
    rng = np.random.default_rng(5)
    people_of = np.repeat(np.arange(40), rng.integers(1, 30, 40))
    labels, difficult = people_of % 2, rng.random(40) < 0.2
    correct = np.where(difficult[people_of], rng.random(len(labels)) < 0.3, True)
    intervals = metrics.bootstrap(metrics.counted(labels, correct, people_of, 2))
    drawn = []
    for _ in range(3000):
        photos = np.concatenate([np.flatnonzero(people_of == k) for k in rng.integers(0, 40, 40)])
        right, own = correct[photos], labels[photos]
        drawn.append((right.mean(), np.mean([right[own == c].mean() for c in (0, 1)])))
    for got, expected in zip(intervals, np.quantile(drawn, [0.025, 0.975], axis=0).T, strict=True):
        assert got == pytest.approx(expected, abs=0.015)
    alone = metrics.bootstrap(metrics.counted(labels, correct, np.arange(len(labels)), 2))
    assert intervals[0][1] - intervals[0][0] > 2 * (alone[0][1] - alone[0][0])
    assert metrics.accuracy_interval(correct, people_of) == pytest.approx(intervals[0], abs=0.01)
    assert metrics.accuracy_interval(correct, np.arange(len(labels))) == metrics.wilson(correct.sum(), len(correct))


@pytest.mark.parametrize("wrong", [0, 3])
def test_sixty_photos_of_two_takes_tell_what_two_photos_tell(wrong):
    probabilities, labels = np.repeat([[0.9, 0.1], [0.2, 0.8]], 30, 0), np.repeat([0, 1], 30)
    probabilities[:wrong] = [0.4, 0.6]
    result = summary(probabilities, labels, clusters=np.repeat([0, 1], 30))
    assert result["n"] == 60 and result["clusters"] == 2 and result["accuracy_ci"] == metrics.wilson(2, 2)
    assert summary(probabilities, labels)["clusters"] == 60
    result = summary(probabilities, labels, [1] * 20, np.repeat([0, 1, 1], [30, 30, 20]))
    low, high = result["balanced_accuracy_with_missed_ci"]
    assert low < 0.5 < result["balanced_accuracy_with_missed"] < high and result["no_face"] == 20


def test_a_missed_face_is_an_error_of_its_class():
    probabilities, labels = np.array([[0.9, 0.1]] * 4 + [[0.2, 0.8]] * 4), np.repeat([0, 1], 4)
    result = summary(probabilities, labels, [1] * 4)
    assert result["balanced_accuracy"] == 1
    assert result["accuracy_with_missed"] == pytest.approx(8 / 12, abs=1e-6)
    assert result["balanced_accuracy_with_missed"] == pytest.approx((1 + 0.5) / 2)
    low, high = result["balanced_accuracy_with_missed_ci"]
    assert 0.5 <= low < 0.75 < high <= 1 and result["balanced_accuracy_ci"] == metrics.wilson(8, 8)
    assert result["no_face"] == 4 and result["n"] == 8


def test_wilson_by_hand():
    low, high = metrics.wilson(8, 10)  # the textbook example: 0.490 to 0.943
    assert (low, high) == (pytest.approx(0.4902, abs=1e-3), pytest.approx(0.9433, abs=1e-3))
    assert metrics.wilson(5, 5)[0] < 0.6 and metrics.wilson(5, 5)[1] == 1
    assert metrics.wilson(0, 0) == (None, None)


def test_an_interval_of_all_right_is_not_a_point():
    for hits, totals in (([12, 0], [12, 0]), ([6, 6], [6, 6]), ([0, 0], [6, 6]), ([1], [1])):
        for low, high in metrics.bootstrap(counts(hits, totals)):
            assert high - low > 0.2 and low <= sum(hits) / sum(totals) <= high


def test_rare_classes():
    assert metrics.rare([500, 5]) == [1] and metrics.rare([90, 10]) == [] and metrics.rare([7, 0]) == []


def test_coverage_and_threshold():
    confidence, correct = np.array([0.9, 0.6, 0.8, 0.6]), np.array([1, 0, 1, 1])
    coverage, accuracy, threshold = metrics.coverage_curve(confidence, correct)
    assert coverage.tolist() == [0.25, 0.5, 1] and accuracy.tolist() == [1, 1, 0.75]
    assert threshold.tolist() == [0.9, 0.8, 0.6]
    assert metrics.at_threshold(confidence, correct, 0.7) == {"threshold": 0.7, "coverage": 0.5, "accuracy": 1.0}
    assert metrics.at_threshold(confidence, correct, 0.95)["accuracy"] is None


@pytest.mark.parametrize(("text", "band", "first"), [
    ("0", "0-2", 0), (2, "0-2", 2), ("3", "3-9", 3), ("14", "10-14", 14), ("15", "15-19", 15), ("29", "20-29", 29),
    ("69", "60-69", 69), ("116", "70+", 116), ("10-19", "10-19", 10), ("more than 70", "70+", 70), ("", None, None),
    ("24.0", "20-29", 24), ("60+", "60+", 60), ("60 +", "60+", 60), ("24.5-30", "24.5-30", 24),
    ("(25, 32)", "25-32", 25), ("24,5", "20-29", 24), ("9" * 400, "70+", int("9" * 400))])
def test_age_band(text, band, first):
    assert people.age_band(text) == (band, first)


def test_group_report_counts_and_orders():
    groups = [people.Person(age=age, ethnicity=ethnicity) for age, ethnicity in (
        ("5", "Asian"), ("25", "Asian"), ("26", "White"), ("27", "White"), ("", ""), ("71", ""))]
    names = ["man", "man", "woman", "man", "man", "woman"]
    found = [True, True, True, False, True, True]
    correct = [False, True, True, False, True, True]
    sure = [False, False, True, False, True, True]
    report = metrics.group_report(groups, names, found, correct, sure, range(6))
    assert [(r["sure"], r["sure_accuracy"]) for r in report["age"]] == [(0, None), (1, 1.0), (1, 1.0)]
    assert [(r["group"], r["n"], r["no_face"], r["accuracy"]) for r in report["age"]] == [
        ("3-9", 1, 0, 0.0), ("20-29", 2, 1, 1.0), ("70+", 1, 0, 1.0)]
    assert [r["group"] for r in report["ethnicity"]] == ["Asian", "White"]
    assert report["ethnicity_class"][0]["group"] == "Asian, man"
    white_men = next(r for r in report["ethnicity_class"] if r["group"] == "White, man")
    assert white_men["n"] == 0 and white_men["accuracy"] is None and white_men["no_face"] == 1
    assert report["age_15_and_over"]["n"] == 3 and report["age_15_and_over"]["accuracy"] == 1
    assert metrics.group_report([people.Person()] * 6, names, found, correct, sure, range(6)) is None
    one_person = metrics.group_report(groups, names, found, correct, sure, [0, 1, 1, 1, 2, 3])
    assert report["age"][1]["accuracy_ci"] == metrics.wilson(2, 2)
    assert one_person["age"][1]["accuracy_ci"] == metrics.wilson(1, 1)
