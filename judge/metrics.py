"""The numbers that test.py reports, as plain functions of arrays: no files, no plots.

scikit-learn and SciPy are imported in the functions that need them, since each process that finds faces imports this
file. Everywhere `probabilities` is float [N, C] with rows that sum to 1, `labels` is int [N] in 0..C-1 and a value
that cannot be known (a class without photos, one class only) is None, never a made-up 0.
"""

import numpy as np

from faces import people

# ------------------------------------------------------------------------------------------------
RESAMPLES = 2000  # bootstrap resamples per interval
LEVEL = 0.95  # share of the resamples that an interval holds
RARE = 0.1  # share of the photos below which a class hardly counts in the accuracy
ECE_BINS = 15  # equal-width bins of confidence
GROWN = 15  # "age 15 and over" gets a line of its own: a child's face tells little
# ------------------------------------------------------------------------------------------------


def known(value, digits=6):
    """A number as a rounded Python float for JSON, or None where it is not finite."""
    return round(float(value), digits) if value is not None and np.isfinite(value) else None


def log_loss(probabilities, labels):
    """Mean cross entropy in nats. scikit-learn's warns that float32 rows do not sum to exactly 1."""
    own = np.asarray(probabilities, np.float64)[np.arange(len(labels)), labels]
    return float(np.abs(np.log(np.clip(own, 1e-12, 1))).mean())  # abs: a perfect loss is 0.0, not -0.0


def confusion_matrix(labels, predicted, n_classes):
    """int64 [C, C]: rows are the true classes, columns the predicted ones."""
    from sklearn.metrics import confusion_matrix

    return confusion_matrix(labels, predicted, labels=range(n_classes))


def ratio(part, whole):
    """part / whole elementwise as float64, NaN where the whole is 0."""
    part, whole = np.broadcast_arrays(np.asarray(part, np.float64), np.asarray(whole, np.float64))
    return np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)


def balanced_accuracy(hits, totals):
    """Mean recall over the classes that have photos, from counts [..., C]; returns [...], NaN where there are none.

    scikit-learn's takes labels, not the counts of thousands of resamples at once.
    """
    recalls = ratio(hits, totals)
    return ratio(np.nansum(recalls, -1), (~np.isnan(recalls)).sum(-1))


def bootstrap(hits, totals, seed=0):
    """Bootstrap intervals of accuracy and of balanced accuracy: two pairs (low, high).

    `hits` and `totals` are the correct and all photos by class. Drawing N photos with replacement and counting
    them by (class, right or wrong) is one multinomial draw, so that a resample costs 2 C numbers, not N. Where all
    resamples are alike, as of 12 right of 12, the interval is Wilson's.
    """
    hits, totals = np.asarray(hits, np.int64), np.asarray(totals, np.int64)
    n = int(totals.sum())
    if n == 0:
        return (None, None), (None, None)
    cells = np.concatenate([hits, totals - hits])
    drawn = np.random.default_rng(seed).multinomial(n, cells / n, size=RESAMPLES)
    right, wrong = drawn[:, :len(hits)], drawn[:, len(hits):]
    intervals = []
    for values in (right.sum(1) / n, balanced_accuracy(right, right + wrong)):
        low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        intervals.append((known(low), known(high)) if low < high else wilson(int(hits.sum()), n))
    return tuple(intervals)


def wilson(hits, n):
    """The Wilson interval of hits / n: unlike a bootstrap it stays honest where a small group is all right."""
    from scipy.stats import binomtest

    if n == 0:
        return None, None
    low, high = binomtest(int(hits), int(n)).proportion_ci(LEVEL, method="wilson")
    return known(low), known(high)


def rare(totals):
    """Indices of the classes, of those that have photos, with less than RARE of all. `totals`: photos by class."""
    return [c for c, total in enumerate(totals) if 0 < total < RARE * sum(totals)]


def roc_curve(positive, scores):
    """(false positive rate, true positive rate), float64 arrays from (0, 0) to (1, 1); None with one class only.

    `positive`: bool [N]. Equal scores are one step, since no threshold tells them apart.
    """
    from sklearn.metrics import roc_curve

    if np.all(positive) or not np.any(positive):
        return None
    return roc_curve(positive, scores, drop_intermediate=False)[:2]


def roc_curves(probabilities, labels):
    """{class index: (fpr, tpr)}: of class 1 for two classes, of each class against the rest for more."""
    n_classes = probabilities.shape[1]
    curves = {c: roc_curve(labels == c, probabilities[:, c]) for c in ([1] if n_classes == 2 else range(n_classes))}
    return {c: curve for c, curve in curves.items() if curve is not None}


def auc(curves):
    """Area under the curves of roc_curves(), their mean for more than one; None where there is no curve."""
    from sklearn.metrics import auc

    areas = [auc(*curve) for curve in curves.values()]
    return float(np.mean(areas)) if areas else None


def reliability(confidence, correct):
    """Expected calibration error and its bins: (ece, count [B], mean confidence [B], accuracy [B]); NaN: empty bin.

    scikit-learn's calibration_curve() leaves empty bins out, and does not say how many are in the others.
    """
    confidence = np.asarray(confidence, np.float64)
    bins = np.clip(np.ceil(confidence * ECE_BINS).astype(int) - 1, 0, ECE_BINS - 1)
    count = np.bincount(bins, minlength=ECE_BINS)
    mean = ratio(np.bincount(bins, confidence, ECE_BINS), count)
    accuracy = ratio(np.bincount(bins, np.asarray(correct, np.float64), ECE_BINS), count)
    ece = np.nansum(count * np.abs(mean - accuracy)) / max(1, len(confidence))
    return float(ece), count, mean, accuracy


def coverage_curve(confidence, correct):
    """Accuracy over the most confident photos: (coverage, accuracy, threshold), rising coverage, one step per value."""
    order = np.argsort(-np.asarray(confidence), kind="stable")
    confidence = np.asarray(confidence)[order]
    ends = np.append(np.flatnonzero(np.diff(confidence)), len(confidence) - 1)
    hits = np.cumsum(np.asarray(correct, np.float64)[order])[ends]
    return (ends + 1) / len(confidence), hits / (ends + 1), confidence[ends]


def at_threshold(confidence, correct, threshold):
    """What is left when photos under the threshold are "unsure": coverage, and accuracy of the rest (None: none)."""
    sure = np.asarray(confidence) >= threshold
    accuracy = np.asarray(correct)[sure].mean() if sure.any() else None
    return {"threshold": known(threshold), "coverage": known(sure.mean()), "accuracy": known(accuracy)}


def coverage(confidence, correct, threshold):
    """How many faces are left, and how many of these are right, when those of little confidence are "unsure": dict."""
    curve = coverage_curve(confidence, correct)
    points = np.unique(np.searchsorted(curve[0], np.linspace(0.05, 1, 20)).clip(max=len(curve[0]) - 1))
    return {"at_threshold": at_threshold(confidence, correct, threshold),
            "curve": [[known(values[i]) for values in curve] for i in points]}


def summary(probabilities, labels, no_face, seed=0):
    """All of the above for one weights file, ready for JSON. `no_face`: photos without a face by class, int [C]."""
    from sklearn.metrics import precision_recall_fscore_support

    n_classes = probabilities.shape[1]
    predicted = probabilities.argmax(1)
    confusion = confusion_matrix(labels, predicted, n_classes)
    precision, recall, f1, _ = precision_recall_fscore_support(labels, predicted, labels=range(n_classes),
                                                               zero_division=np.nan)
    hits, totals = np.diag(confusion), confusion.sum(1)
    accuracy_ci, balanced_ci = bootstrap(hits, totals, seed)
    all_photos = totals + no_face
    _, missed_ci = bootstrap(hits, all_photos, seed)
    ece = reliability(probabilities.max(1), predicted == labels)[0]
    return {
        "n": int(totals.sum()), "no_face": int(np.sum(no_face)),
        "loss": known(log_loss(probabilities, labels)),
        "accuracy": known(hits.sum() / totals.sum()), "accuracy_ci": accuracy_ci,
        "balanced_accuracy": known(balanced_accuracy(hits, totals)), "balanced_accuracy_ci": balanced_ci,
        "accuracy_with_missed": known(hits.sum() / all_photos.sum()),
        "balanced_accuracy_with_missed": known(balanced_accuracy(hits, all_photos)),
        "balanced_accuracy_with_missed_ci": missed_ci,
        "precision": [known(v) for v in precision], "recall": [known(v) for v in recall],
        "f1": [known(v) for v in f1],
        "auc": known(auc(roc_curves(probabilities, labels))), "ece": known(ece),
        "confusion": confusion.tolist(),
    }


def group_row(name, correct, found, sure):
    """One group: photos with a face (n), without (no_face), accuracy over those with one and its interval, and how many
    faces are sure, with the accuracy of these (None: none)."""
    n, hits, left = int(found.sum()), int(correct[found].sum()), int(sure.sum())
    return {"group": name, "n": n, "no_face": int((~found).sum()), "accuracy": known(hits / n) if n else None,
            "accuracy_ci": wilson(hits, n), "sure": left,
            "sure_accuracy": known(correct[sure].mean()) if left else None}


def group_report(groups, names, found, correct, sure):
    """Accuracy by age band, ethnicity and their combinations with class; each list has its worst group first.

    For each photo `groups` has a people.Person or None, `names` its class, `found` whether it has a face, `correct`
    whether its face is judged right, and `sure` whether it has a face that is not called unsure.
    Returns None where no photo has a group.
    """
    found, correct, sure = (np.asarray(v, bool) for v in (found, correct, sure))
    bands = [people.age_band(g.age) if g else (None, None) for g in groups]
    age = [band for band, _ in bands]
    ethnicity = [(g.ethnicity or None) if g else None for g in groups]
    kinds = {"age": [age], "ethnicity": [ethnicity], "age_class": [age, names], "ethnicity_class": [ethnicity, names],
             "age_ethnicity_class": [age, ethnicity, names]}
    report = {}
    for kind, parts in kinds.items():
        members = {}
        for i, key in enumerate(zip(*parts, strict=True)):
            if None not in key:
                members.setdefault(", ".join(key), []).append(i)
        rows = [group_row(name, correct[index], found[index], sure[index]) for name, index in members.items()]
        report[kind] = sorted(rows, key=lambda r: (r["accuracy"] is None, r["accuracy"], r["group"]))
    grown = np.array([first is not None and first >= GROWN for _, first in bands], bool)
    report["age_15_and_over"] = (group_row("age 15 and over", correct[grown], found[grown], sure[grown])
                                 if grown.any() else None)
    return report if report["age"] or report["ethnicity"] else None
