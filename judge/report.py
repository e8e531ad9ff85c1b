"""The tables, plots and predictions.csv of test.py. Each function prints, or writes one file, whole or not at all.
Nothing to run."""

import csv
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np

from judge import metrics
from judge.plots import figure, legend, save, shown_name
from terminal.files import atomic

# ------------------------------------------------------------------------------------------------
COLOURS = ("#1b6ca8", "#d1603d", "#3b8751", "#7d5ba6", "#b8860b", "#5f6b73", "#c2185b", "#00838f")
FEWEST = 10  # photos that a group needs for a bar; test_metrics.json has all groups
BARS = 24  # maximum groups drawn per kind, the worst ones
COUNTED = 12  # maximum classes for which a confusion matrix shows counts; with more it shows colours only
NAMED = 50  # maximum classes named beside a confusion matrix; with more, every second, third, ... is named
SIDE = 10.0  # inches, the largest side of a confusion matrix
GROUPS_SHOWN = 8  # worst groups printed per kind; test_metrics.json has all
SMALLEST_GROUP = 20  # photos that a group needs to be printed; with fewer, the interval is too wide to tell anything
# ------------------------------------------------------------------------------------------------


class Row(NamedTuple):
    """A photo or clip of the test, for write_predictions()."""

    path: Path
    class_name: str
    status: str  # "ok", "no face", "unreadable" or "clip"
    reason: str = ""  # why a photo is not "ok"; of a clip its metrics
    box: tuple | None = None  # of the face: x, y, width, height, in pixels
    predicted: str | None = None  # of a clip: the class that was shown most often


def text(value):
    """A number in a column, or a dash if it is undefined."""
    return f"{value:6.4f}" if value is not None else "     -"


def compare(classifiers, results):
    """Print one line per weights file; returns the index of the one with the lowest loss. `classifiers`: list of
    learn.classifier.Classifier; `results`: for each the dict returned by metrics.summary()."""
    paths = [classifier.path.as_posix() for classifier in classifiers]
    width = max(map(len, paths))
    print(f"\n{'weights':{width}}  epoch    loss  accuracy  95 % interval  balanced     AUC     ECE")
    for path, classifier, r in zip(paths, classifiers, results, strict=True):
        low, high = r["accuracy_ci"]
        print(f"{path:{width}}  {classifier.epoch or 0:5}  {r['loss']:.4f}    {r['accuracy']:.4f}  "
              f"{low:.4f}-{high:.4f}    {r['balanced_accuracy']:.4f}  {text(r['auc'])}  {r['ece']:.4f}")
    best = min(range(len(results)), key=lambda i: results[i]["loss"])
    print(f"lowest loss: {paths[best]}, shown in detail below and in the pictures")
    return best


def show(result, coverage, classes, count):
    """Print the tables of one weights file. With at most COUNTED classes, they include the counts of the confusion
    matrix.

    `result`, `coverage`: dicts returned by metrics.summary() and metrics.coverage(); `classes`: names;
    `count[class, status]`: the number of photos with that status.
    """
    width = max(5, *(len(name) for name in classes))
    columns = classes if len(classes) <= COUNTED else []
    widths = [max(6, len(name)) for name in columns]  # of the counts
    heads = " ".join(f"{name:>{wide}}" for name, wide in zip(columns, widths, strict=True))
    print(f"\n{'class':{width}}  faces  no face  unreadable  precision  recall      F1   "
          f"{'called' if columns else ''} {heads}")
    for i, name in enumerate(classes):
        counts = " ".join(f"{value:{wide}}" for value, wide in zip(result["confusion"][i], widths, strict=False))
        print(f"{name:{width}}  {count[name, 'ok']:5}  {count[name, 'no face']:7}  {count[name, 'unreadable']:10}     "
              f"{text(result['precision'][i])}  {text(result['recall'][i])}  {text(result['f1'][i])}          {counts}")
    print()
    for label, key in (("accuracy", "accuracy"), ("balanced accuracy", "balanced_accuracy"),
                       ("balanced, missed = error", "balanced_accuracy_with_missed")):
        low, high = result[f"{key}_ci"]
        print(f"{label:28}{result[key]:.4f}   (95 % {low:.4f} to {high:.4f})")
    if result["clusters"] < result["n"]:
        print(f"{'people or takes':28}{result['clusters']:6}   (the intervals count these: photos of one are alike)")
    totals = [sum(row) for row in result["confusion"]]
    for i in metrics.rare(totals):
        print(f"{classes[i]} is rare, {totals[i]} of {sum(totals)} faces: use the balanced accuracy")
    print(f"{'mean loss':28}{result['loss']:.4f}")
    if result["auc"] is None:
        note = "   (undefined: photos of one class only)"
    elif len(classes) > 2:
        note = "   (mean, each class against the rest)"
    else:
        note = ""
    print(f"{'ROC AUC':28}{text(result['auc'])}{note}")
    print(f"{'expected calibration error':28}{result['ece']:.4f}   ({metrics.ECE_BINS} bins of confidence)")
    at = coverage["at_threshold"]
    sure = "none is left" if at["accuracy"] is None else f"accuracy {at['accuracy']:.4f} on the rest"
    print(f"{'unsure below':28}{at['threshold']:.4f}   ({at['coverage']:.1%} of the faces are sure; {sure})")


def show_groups(groups):
    """Print the worst groups of each kind, those of SMALLEST_GROUP photos or more. `groups`: returned by
    metrics.group_report()."""
    print(f"\nby group, worst first ({GROUPS_SHOWN} per kind, of {SMALLEST_GROUP} faces or more)")
    for kind, rows in groups.items():
        if kind == metrics.GROWN_UP:  # a single group, or None
            rows = [rows] if rows else []
        large = [r for r in rows if r["n"] >= SMALLEST_GROUP]
        for r in large[:GROUPS_SHOWN]:
            low, high = r["accuracy_ci"]
            print(f"  {kind.replace('_', ' '):20}{r['group']:32}{r['accuracy']:.4f}  ({low:.4f} to {high:.4f})  "
                  f"{r['n']:6} faces, {r['no_face']} missed; sure of {r['sure']}: {text(r['sure_accuracy']).strip()}")


def confusion_matrix(path, confusion, classes):
    """Plot the confusion matrix `confusion` (int [C, C], rows: true classes) as shares of each true class, with counts
    for at most COUNTED classes. `path`: of the file; `classes`: C names."""
    confusion, n = np.asarray(confusion), len(classes)
    shares = metrics.ratio(confusion, confusion.sum(1, keepdims=True))
    side = float(np.clip(0.8 * n + 2, 4.4, SIDE))
    fig, (axis,) = figure(size=(side + 0.6, side))
    image = axis.imshow(np.nan_to_num(shares), cmap="Blues", vmin=0, vmax=1)
    if n <= COUNTED:
        size = min(10.0, 8 * side / n)  # points, so that five letters fit into a cell
        for (row, column), count in np.ndenumerate(confusion):
            share = shares[row, column]
            words = f"{count}" if np.isnan(share) else f"{count}\n{share:.1%}"
            axis.text(column, row, words, ha="center", va="center", fontsize=size,
                      color="white" if share > 0.5 else "black")
    named = range(0, n, math.ceil(n / NAMED))
    names = [shown_name(classes[c], 24) for c in named]
    size = float(np.clip(50 * side / len(names), 4, 10))  # points, so that names do not overlap
    rotation = 60 if n <= COUNTED else 90  # degrees
    if n < 5 and max(map(len, names)) < 12:  # so that they fit side by side
        rotation = 0
    axis.set_xticks(named, names, rotation=rotation, fontsize=size)
    axis.set_yticks(named, names, fontsize=size)
    axis.set(xlabel="predicted", ylabel="true", title=f"{np.trace(confusion)} of {confusion.sum()} right")
    fig.colorbar(image, ax=axis, shrink=0.8, label="share of the true class")
    save(fig, path)


def roc(path, probabilities, labels, classes):
    """Plot one ROC curve for two classes; for more, one per class against the rest, the worst ones named."""
    fig, (axis,) = figure()
    curves = metrics.roc_curves(probabilities, labels)
    areas = {c: metrics.auc({c: curve}) for c, curve in curves.items()}
    worst = sorted(sorted(areas, key=areas.get)[:len(COLOURS)])
    for c in curves.keys() - set(worst):
        axis.plot(*curves[c], color="0.8", linewidth=0.5, zorder=1)
    for colour, c in zip(COLOURS, worst, strict=False):
        axis.plot(*curves[c], color=colour, label=f"{shown_name(classes[c])}, area {areas[c]:.4f}")
    if len(curves) > len(worst):
        axis.plot([], [], color="0.8", label=f"{len(curves) - len(worst)} classes with larger areas")
    axis.plot([0, 1], [0, 1], "--", color="gray", linewidth=0.8, label="chance")
    title = "ROC" if curves else "ROC: undefined, photos of one class only"
    axis.set(xlabel="false positive rate", ylabel="true positive rate", title=title, aspect="equal")
    axis.grid(alpha=0.3)
    legend(axis, loc="lower right", fontsize=9 if len(curves) < 5 else 7, title="a class against the rest")
    save(fig, path)


def reliability(path, confidence, correct, trusted, threshold, clusters):
    """Plot calibration. Left: accuracy against confidence, and the share of photos. Right: accuracy against coverage,
    by `trusted`, which is the confidence, or 0 for children, who are "unsure". `clusters`: see metrics.counted().
    """
    ece, count, mean, accuracy = metrics.reliability(confidence, correct)
    fig, (left, right) = figure(1, 2)
    edges = np.linspace(0, 1, len(count) + 1)
    left.bar(edges[:-1], count / count.sum(), width=np.diff(edges), align="edge", color="0.88", label="share of photos")
    full = count > 0
    bins = metrics.bins_of(confidence)
    low, high = np.array([metrics.accuracy_interval(correct[bins == b], clusters[bins == b])
                          for b in np.flatnonzero(full)]).T
    errors = np.clip([accuracy[full] - low, high - accuracy[full]], 0, 1)
    left.errorbar(mean[full], accuracy[full], errors, fmt="o", markersize=4, color=COLOURS[0],
                  label="accuracy, with its 95 % interval")
    left.plot([0, 1], [0, 1], "--", color="gray", linewidth=0.8, label="perfectly calibrated")
    left.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1.02), title=f"calibration error {ece:.3f}")
    left.legend(loc="upper left", fontsize=9)
    coverage, kept, _ = metrics.coverage_curve(trusted, correct)
    right.plot(coverage, kept, color=COLOURS[0], label="of the photos that are kept")
    at = metrics.at_threshold(trusted, correct, threshold)
    if at["accuracy"] is not None:
        right.plot(at["coverage"], at["accuracy"], "o", color=COLOURS[1],
                   label=f"unsure below {threshold:.2f}: of {at['coverage']:.1%} of the photos\n"
                         f"{at['accuracy']:.1%} are right")
    right.legend(loc="lower left", fontsize=9)
    floor = min(0.98, float(kept[len(kept) // 10:].min()) - 0.01)
    right.set(xlabel="coverage (most confident photos first)", ylabel="accuracy", xlim=(0, 1.02), ylim=(floor, 1.003),
              title="accuracy without the least confident photos")
    right.grid(alpha=0.3)
    save(fig, path)


def errors(path, panels):
    """Plot the most confident mistakes: panels of (crop uint8 [H, W, 3], heat float [H, W] in 0..1, title)."""
    columns = min(4, max(1, len(panels)))
    rows = max(1, math.ceil(len(panels) / columns))
    fig, axes = figure(rows, columns, size=(3.6, 2.3))
    for axis in axes:
        axis.set_axis_off()
    for axis, (crop, heat, title) in zip(axes, panels, strict=False):
        heat = np.clip(heat, 0, 1)[:, :, None]
        colour = np.concatenate([heat, heat * heat, 1 - heat], axis=2) * 255  # blue: ignored, red to yellow: decisive
        overlay = (crop * (1 - 0.55 * heat) + colour * 0.55 * heat).clip(0, 255).astype(np.uint8)
        axis.imshow(np.concatenate([crop, overlay], axis=1))
        axis.set_title("\n".join(shown_name(line, 70) for line in title.splitlines()), fontsize=8)
    if not panels:
        axes[0].text(0.5, 0.5, "no mistakes", ha="center", va="center")
    save(fig, path)


def groups(path, rows_of):
    """Plot accuracy with 95 % intervals by age, ethnicity and their combinations with class, worst group on top.
    `rows_of`: the dict returned by metrics.group_report()."""
    titles = {"age": "age", "ethnicity": "ethnicity", "age_class": "age and class",
              "ethnicity_class": "ethnicity and class"}
    shown = {k: [r for r in rows_of[k] if r["n"] >= FEWEST][:BARS] for k in titles}
    longest = max(4, *(len(rows) for rows in shown.values()))
    fig, axes = figure(1, 4, size=(4.2, 1.2 + 0.28 * longest))
    for axis, (kind, rows) in zip(axes, shown.items(), strict=True):
        for y, row in enumerate(rows):
            (low, high), middle = row["accuracy_ci"], row["accuracy"]
            axis.barh(y, middle, color="0.85")
            axis.errorbar(middle, y, xerr=[[max(0, middle - low)], [max(0, high - middle)]], fmt="o", markersize=4,
                          color=COLOURS[0])
        names = [f"{shown_name(r['group'])} ({r['n']})" for r in rows]
        axis.set_yticks(range(len(rows)), names, fontsize=8)
        axis.set(ylim=(longest - 0.5, -0.5), title=f"{titles[kind]} (photos)",
                 xlabel="accuracy, with its 95 % interval")
        worst = min((r["accuracy_ci"][0] for r in rows), default=0.5)
        axis.set_xlim(max(0, worst - 0.03), 1.005)
        axis.grid(axis="x", alpha=0.3)
    save(fig, path)


def robustness(path, rows):
    """Plot accuracy against severity, one line per kind of corruption; severity 0 is the crop as it is. `rows`:
    returned by corruptions.measure()."""
    fig, (axis,) = figure(size=(6.4, 4.6))
    kinds = list(dict.fromkeys(r["kind"] for r in rows if r["severity"] > 0))
    clean = next(r["balanced_accuracy"] for r in rows if r["severity"] == 0)
    for n, kind in enumerate(kinds):
        own = sorted((r["severity"], r["balanced_accuracy"]) for r in rows if r["kind"] == kind)
        severity, accuracy = zip((0, clean), *own, strict=True)
        axis.plot(severity, accuracy, "o-", markersize=3, color=COLOURS[n % len(COLOURS)], label=shown_name(kind))
    axis.set(xlabel="severity (0: none)", ylabel="balanced accuracy", title="corrupted crops")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8, title="kind of corruption")
    save(fig, path)


def write_predictions(path, rows, probabilities, classes, sure=()):
    """Write one line per photo, also for those without a face: file, class, predicted, p_<class>..., box, status,
    reason, sure (1 or 0).

    `rows`: list of Row; `probabilities`: float [found, C], None if no face was found; `sure`: bool [found]. A clip's
    line has no probabilities.
    """
    faces = iter(zip([] if probabilities is None else probabilities, sure, strict=True))
    with atomic(path) as temporary, \
            open(temporary, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "class", "predicted", *(f"p_{c}" for c in classes), "x", "y", "width", "height",
                         "status", "reason", "sure"])
        for row in rows:
            predicted, shares, is_sure = row.predicted or "", [""] * len(classes), ""
            if row.status == "ok":
                own, face_sure = next(faces)
                predicted, shares, is_sure = classes[own.argmax()], [f"{p:.6f}" for p in own], int(face_sure)
            writer.writerow([row.path.as_posix(), row.class_name, predicted, *shares, *(row.box or [""] * 4),
                             row.status, row.reason, is_sure])
