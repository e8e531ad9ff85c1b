"""The metrics that test.py reports, as functions of arrays: no files, no plots.

scikit-learn and SciPy are imported in the functions that need them, since each process that finds faces imports this
file. Everywhere `probabilities` is float [N, C] with rows that sum to 1, `labels` is int [N] in 0..C-1, and a value
that is undefined (of a class without photos, or with one class only) is None, not 0.
"""

import numpy as np

from faces import people

# ------------------------------------------------------------------------------------------------
RESAMPLES = 2000  # bootstrap resamples per interval
LEVEL = 0.95  # confidence level of the intervals
FEW = 10  # clusters; with fewer, their variance is not known well enough for a bootstrap
RARE = 0.1  # share of the photos below which a class hardly affects the accuracy
ECE_BINS = 15  # equal-width bins of confidence
GROWN = 15  # first year of the group GROWN_UP, since children are harder to classify
# ------------------------------------------------------------------------------------------------

GROWN_UP = f"age_{GROWN}_and_over"  # key of a group


def rounded(value):
    """A number as a rounded Python float for JSON, or None if it is not finite."""
    return round(float(value), 6) if value is not None and np.isfinite(value) else None


def log_loss(probabilities, labels):
    """Mean cross-entropy in nats. scikit-learn's version warns that float32 rows do not sum to exactly 1."""
    own = np.asarray(probabilities, np.float64)[np.arange(len(labels)), labels]
    return float(np.abs(np.log(np.clip(own, 1e-12, 1))).mean())  # abs: a perfect loss is 0.0, not -0.0


def confusion_matrix(labels, predicted, n_classes):
    """int64 [C, C]: rows are the true classes, columns the predicted ones."""
    import sklearn.metrics

    return sklearn.metrics.confusion_matrix(labels, predicted, labels=range(n_classes))


def ratio(part, whole):
    """part / whole elementwise as float64; NaN where `whole` is 0."""
    part, whole = np.broadcast_arrays(np.asarray(part, np.float64), np.asarray(whole, np.float64))
    return np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)


def balanced_accuracy(hits, totals):
    """Mean recall over the classes that have photos, from counts [..., C]; returns [...], NaN without any photos.

    scikit-learn's version takes labels, not the counts of thousands of resamples at once.
    """
    recalls = ratio(hits, totals)
    return ratio(np.nansum(recalls, -1), (~np.isnan(recalls)).sum(-1))


def counted(labels, correct, clusters, n_classes):
    """The numbers of right photos by class, then of wrong ones, of each cluster: int64 [K, 2 C]. A cluster holds photos
    that are not independent, such as those of one person; `clusters`: the cluster of each photo, int [N]."""
    numbers, index = np.unique(clusters, return_inverse=True)
    counts = np.zeros((len(numbers), 2 * n_classes), np.int64)
    np.add.at(counts, (index, labels + n_classes * ~np.asarray(correct, bool)), 1)
    return counts


def bootstrap(counts, seed=0):
    """Bootstrap intervals of accuracy and of balanced accuracy: two pairs (low, high). `counts`: from counted().

    Clusters are resampled, not photos: thirty photos of one person tell little more than one. If all resamples are
    equal (12 of 12 are right), or there are fewer than FEW clusters, the interval is Wilson's for as many photos as
    there are clusters.
    """
    # Equal clusters are drawn together, as one multinomial count: single photos make only 2 C kinds of clusters. The
    # kinds are in the order of the columns, since a seed's resamples depend on their order.
    kinds, numbers = (part[::-1] for part in np.unique(counts, axis=0, return_counts=True))
    n = int(numbers.sum())
    if n == 0:
        return (None, None), (None, None)

    def rates(counts):
        right, wrong = np.split(counts, 2, -1)
        return ratio(right.sum(-1), counts.sum(-1)), balanced_accuracy(right, right + wrong)

    drawn = rates(np.random.default_rng(seed).multinomial(n, numbers / n, size=RESAMPLES) @ kinds)
    intervals = []
    for value, values in zip(rates(counts.sum(0)), drawn, strict=True):
        low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        if low < high and n >= FEW:
            intervals.append((rounded(low), rounded(high)))
        else:
            intervals.append(wilson(round(float(value) * n), n))
    return tuple(intervals)


def accuracy_interval(correct, clusters):
    """The interval of an accuracy: Wilson's, or that by bootstrap() if some photos share a cluster."""
    if len(set(clusters.tolist())) == len(clusters):
        return wilson(correct.sum(), len(correct))
    return bootstrap(counted(np.zeros(len(correct), int), correct, clusters, 1))[0]


def wilson(hits, n):
    """The Wilson interval of hits / n, which unlike a bootstrap's has a width even if all of a small group is right."""
    from scipy.stats import binomtest

    if n == 0:
        return None, None
    low, high = binomtest(int(hits), int(n)).proportion_ci(LEVEL, method="wilson")
    return rounded(low), rounded(high)


def rare(totals):
    """Indices of the classes with some photos, but less than a share RARE of all. `totals`: photos by class."""
    return [c for c, total in enumerate(totals) if 0 < total < RARE * sum(totals)]


def roc_curve(positive, scores):
    """(false positive rate, true positive rate), float64 arrays from (0, 0) to (1, 1); None with one class only.

    `positive`: bool [N]. Equal scores are one step, since no threshold separates them.
    """
    import sklearn.metrics

    if np.all(positive) or not np.any(positive):
        return None
    return sklearn.metrics.roc_curve(positive, scores, drop_intermediate=False)[:2]


def roc_curves(probabilities, labels):
    """{class index: (fpr, tpr)}: for two classes that of class 1, for more each class against the rest."""
    n_classes = probabilities.shape[1]
    curves = {c: roc_curve(labels == c, probabilities[:, c]) for c in ([1] if n_classes == 2 else range(n_classes))}
    return {c: curve for c, curve in curves.items() if curve is not None}


def auc(curves):
    """Area under the curves returned by roc_curves(), the mean of several; None if there is no curve."""
    import sklearn.metrics

    areas = [sklearn.metrics.auc(*curve) for curve in curves.values()]
    return float(np.mean(areas)) if areas else None


def bins_of(confidence):
    """The bin of each confidence: int [N], 0..ECE_BINS-1. A value on an edge belongs to the lower bin."""
    return np.clip(np.ceil(np.asarray(confidence, np.float64) * ECE_BINS).astype(int) - 1, 0, ECE_BINS - 1)


def reliability(confidence, correct):
    """Expected calibration error and its bins: (ece, count [B], mean confidence [B], accuracy [B]); NaN: empty bin.

    scikit-learn's calibration_curve() leaves out empty bins and does not return the counts.
    """
    confidence, bins = np.asarray(confidence, np.float64), bins_of(confidence)
    count = np.bincount(bins, minlength=ECE_BINS)
    mean = ratio(np.bincount(bins, confidence, ECE_BINS), count)
    accuracy = ratio(np.bincount(bins, np.asarray(correct, np.float64), ECE_BINS), count)
    ece = np.nansum(count * np.abs(mean - accuracy)) / max(1, len(confidence))
    return float(ece), count, mean, accuracy


def coverage_curve(confidence, correct):
    """Accuracy of the most confident photos: (coverage, accuracy, threshold) arrays, coverage rising, one step per
    distinct confidence."""
    order = np.argsort(-np.asarray(confidence), kind="stable")
    confidence = np.asarray(confidence)[order]
    ends = np.append(np.flatnonzero(np.diff(confidence)), len(confidence) - 1)
    hits = np.cumsum(np.asarray(correct, np.float64)[order])[ends]
    return (ends + 1) / len(confidence), hits / (ends + 1), confidence[ends]


def at_threshold(confidence, correct, threshold):
    """Coverage and accuracy (None: no photos) of the photos at or above the threshold; the others are "unsure"."""
    sure = np.asarray(confidence) >= threshold
    accuracy = np.asarray(correct)[sure].mean() if sure.any() else None
    return {"threshold": rounded(threshold), "coverage": rounded(sure.mean()), "accuracy": rounded(accuracy)}


def coverage(confidence, correct, threshold):
    """at_threshold(), and a "curve" of about 20 points of the coverage_curve(): dict."""
    curve = coverage_curve(confidence, correct)
    points = np.unique(np.searchsorted(curve[0], np.linspace(0.05, 1, 20)).clip(max=len(curve[0]) - 1))
    return {"at_threshold": at_threshold(confidence, correct, threshold),
            "curve": [[rounded(values[i]) for values in curve] for i in points]}


def summary(probabilities, labels, missed, clusters, seed=0):
    """All metrics above for one weights file: a dict, ready for JSON.

    `missed`: the labels of the photos without a face, int [M]; `clusters`: see counted(), int [N + M], photos without a
    face last.

    n, no_face: N, M; clusters: their number among the N; loss, auc, ece; accuracy, balanced_accuracy, each also
    "..._with_missed", where a photo without a face is an error; "..._ci": their intervals, (low, high); precision,
    recall, f1: lists by class; confusion: lists, see confusion_matrix().
    """
    from sklearn.metrics import precision_recall_fscore_support

    n_classes = probabilities.shape[1]
    predicted = probabilities.argmax(1)
    confusion = confusion_matrix(labels, predicted, n_classes)
    precision, recall, f1, _ = precision_recall_fscore_support(labels, predicted, labels=range(n_classes),
                                                               zero_division=np.nan)
    hits, totals = np.diag(confusion), confusion.sum(1)
    correct = predicted == labels
    accuracy_ci, balanced_ci = bootstrap(counted(labels, correct, clusters[:len(labels)], n_classes), seed)
    everyone, found_and_right = np.concatenate([labels, missed]), np.concatenate([correct, np.zeros(len(missed), bool)])
    all_photos = np.bincount(everyone, minlength=n_classes)
    _, missed_ci = bootstrap(counted(everyone, found_and_right, clusters, n_classes), seed)
    ece = reliability(probabilities.max(1), correct)[0]
    return {
        "n": int(totals.sum()), "no_face": len(missed), "clusters": len(set(clusters[:len(labels)].tolist())),
        "loss": rounded(log_loss(probabilities, labels)),
        "accuracy": rounded(hits.sum() / totals.sum()), "accuracy_ci": accuracy_ci,
        "balanced_accuracy": rounded(balanced_accuracy(hits, totals)), "balanced_accuracy_ci": balanced_ci,
        "accuracy_with_missed": rounded(hits.sum() / all_photos.sum()),
        "balanced_accuracy_with_missed": rounded(balanced_accuracy(hits, all_photos)),
        "balanced_accuracy_with_missed_ci": missed_ci,
        "precision": [rounded(v) for v in precision], "recall": [rounded(v) for v in recall],
        "f1": [rounded(v) for v in f1],
        "auc": rounded(auc(roc_curves(probabilities, labels))), "ece": rounded(ece),
        "confusion": confusion.tolist(),
    }


def group_row(name, correct, found, sure, clusters):
    """The row of a group: photos with a face (n), without (no_face), accuracy of the former and its interval, the
    number of faces that are sure, and their accuracy (None: no such face)."""
    n, hits, left = int(found.sum()), int(correct[found].sum()), int(sure.sum())
    return {"group": name, "n": n, "no_face": int((~found).sum()), "accuracy": rounded(hits / n) if n else None,
            "accuracy_ci": accuracy_interval(correct[found], clusters[found]), "sure": left,
            "sure_accuracy": rounded(correct[sure].mean()) if left else None}


def group_report(known, classes, found, correct, sure, clusters):
    """Accuracy by age band, ethnicity and their combinations with class; each list has its worst group first.

    For each photo, `known` has a people.Person, `classes` its class, `found` whether it has a face, `correct` whether
    that is classified correctly, and `sure` whether it has a face that is not "unsure"; `clusters`: see counted().
    Returns None if no photo has a group.
    """
    found, correct, sure = np.asarray(found, bool), np.asarray(correct, bool), np.asarray(sure, bool)
    clusters = np.asarray(clusters)
    bands = [people.age_band(person.age) for person in known]
    age = [band for band, _ in bands]
    ethnicity = [person.ethnicity or None for person in known]
    kinds = {"age": [age], "ethnicity": [ethnicity], "age_class": [age, classes],
             "ethnicity_class": [ethnicity, classes], "age_ethnicity_class": [age, ethnicity, classes]}
    groups = {}
    for kind, parts in kinds.items():
        members = {}
        for i, key in enumerate(zip(*parts, strict=True)):
            if None not in key:
                members.setdefault(", ".join(key), []).append(i)
        rows = [group_row(name, correct[index], found[index], sure[index], clusters[index])
                for name, index in members.items()]
        groups[kind] = sorted(rows, key=lambda r: (r["accuracy"] is None, r["accuracy"], r["group"]))
    grown = np.array([first is not None and first >= GROWN for _, first in bands], bool)
    groups[GROWN_UP] = None
    if grown.any():
        name = GROWN_UP.replace("_", " ")
        groups[GROWN_UP] = group_row(name, correct[grown], found[grown], sure[grown], clusters[grown])
    return groups if groups["age"] or groups["ethnicity"] else None
