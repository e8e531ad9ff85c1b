"""Metrics of the live path on clips, which photos cannot measure: is there a label, is it right, is it stable?"""

import itertools
import statistics

from judge import report
from judge.metrics import ratio, rounded
from terminal import script
from terminal.names import UNSURE

COUNTS = ("frames", "with_face", "labelled", "right", "unsure", "flips")


def measure(labels, wanted):
    """The metrics of a clip: dict. `labels`: (seconds, label) of each frame, in order, as live.videos.labels() yields
    them: None for no face, "" for a face not yet classified, "unsure", or a class; `wanted`: the class of the clip.

    Counts of frames: frames, with_face, labelled (a class is shown), right (the clip's class is shown), unsure.
    flips: how often the class changes to another, "unsure" and gaps left out. seconds: with a face. first_label:
    seconds from the clip's start until a class is shown, or None. predicted: the class shown most often, or None. And
    what shares() returns.
    """
    timestamps = [timestamp for timestamp, _ in labels]
    names = [name for _, name in labels]
    shown = [name for name in names if name and name != UNSURE]
    faces = sum(name is not None for name in names)
    frame_s = 0.0  # mean duration of a frame, in seconds
    if len(timestamps) > 1:
        frame_s = (timestamps[-1] - timestamps[0]) / (len(timestamps) - 1)
    first = next((timestamp for timestamp, name in labels if name and name != UNSURE), None)
    counts = {"frames": len(names), "with_face": faces, "labelled": len(shown), "right": shown.count(wanted),
              "unsure": names.count(UNSURE), "flips": sum(a != b for a, b in itertools.pairwise(shown)),
              "seconds": rounded(faces * frame_s)}
    return {**counts, "first_label": None if first is None else rounded(first - timestamps[0]),
            "predicted": max(sorted(set(shown)), key=shown.count) if shown else None, **shares(counts)}


def shares(counts):
    """Ratios of the counts: labelled_share and unsure_share of the frames with a face, right_share of the labelled
    ones, flips_per_minute with a face; None if the denominator is 0.
    """
    return {"labelled_share": rounded(ratio(counts["labelled"], counts["with_face"])),
            "right_share": rounded(ratio(counts["right"], counts["labelled"])),
            "unsure_share": rounded(ratio(counts["unsure"], counts["with_face"])),
            "flips_per_minute": rounded(60 * counts["flips"] / counts["seconds"]) if counts["seconds"] else None}


def together(clips):
    """The metrics of all clips: sums of the counts, ratios of these, and the median first_label of clips that have one.
    """
    counts = {name: sum(clip[name] for clip in clips) for name in (*COUNTS, "seconds")}
    firsts = [clip["first_label"] for clip in clips if clip["first_label"] is not None]
    return {"clips": len(clips), **counts, "first_label": statistics.median(firsts) if firsts else None,
            **shares(counts)}


def summary(figures):
    """A line of text with the metrics of a clip, returned by measure(), or of all clips, by together()."""
    def share(key):
        return "-" if figures[key] is None else f"{figures[key]:.1%}"

    first, flips = figures["first_label"], figures["flips_per_minute"]
    return (f"{figures['with_face']} of {figures['frames']} frames with a face, labelled "
            f"{share('labelled_share')}, of these right {share('right_share')}, unsure {share('unsure_share')}, "
            f"{'-' if flips is None else format(flips, '.1f')} flips per minute, first label "
            + ("never" if first is None else f"after {first:.2f} s"))


def evaluate(clips, labels_of):
    """Measure and print [(path, class)], one clip after the other. `labels_of`: a function from a path to the `labels`
    of measure(); if it raises script.Problem, that is printed and the clip is left out.

    Returns (list of report.Row, metrics: None without clips, or a dict: "all" from together(), "each"
    from measure(), and the number of "unreadable" clips).
    """
    rows, each = [], []
    for path, name in clips:
        try:
            figures = measure(list(labels_of(path)), name)
            each.append({"file": path.as_posix(), "class": name, **figures})
            row = report.Row(path, name, "clip", summary(figures), predicted=figures["predicted"])
        except script.Problem as problem:
            row = report.Row(path, name, "unreadable", str(problem))
        rows.append(row)
        print(f"{name}/{path.name}: {row.reason}", flush=True)
    if not rows:
        return [], None
    figures = together(each)
    print(f"{len(each)} clip(s) in all: {summary(figures)}")
    return rows, {"all": figures, "unreadable": len(rows) - len(each), "each": each}
