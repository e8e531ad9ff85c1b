"""data/groups.csv: what a data set tells of the people in its photos, for test.py and train.py. Nothing to run.

test.py reports by age and ethnicity. Training may ask for them as auxiliary tasks: the network's last layer gets more
outputs, its features have to know more of a face than the class takes, and generalise better (Caruana, "Multitask
Learning", Machine Learning 1997). Weights files do not hold these outputs: nothing here guesses an age.
"""

import bisect
import csv
from pathlib import Path

import metrics
from terminal import script

# ------------------------------------------------------------------------------------------------
GROUPS = "data/groups.csv"  # without the file test.py has no report by group, and train.py no auxiliary tasks
COLUMNS = ("age", "ethnicity")  # beside `file`, the photo's name
AGES = (0, 1, 2, 3, 5, 8, 11, 14, 17, 20, 24, 28, 33, 40, 50, 60, 70, 80)  # where the classes of "age" begin
# ------------------------------------------------------------------------------------------------


def read_groups(path):
    """{photo name or stem: (age, ethnicity)}, texts, from a groups.csv, or None where there is no such file."""
    if not Path(path).is_file():
        return None
    groups = {}
    with open(path, encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        lacking = {"file", *COLUMNS} - set(reader.fieldnames or ())
        if lacking:
            script.fail(f"{path} lacks the column(s) {', '.join(sorted(lacking))}: run its importer in data/ again")
        for line in reader:
            name = (line["file"] or "").replace("\\", "/").rsplit("/", 1)[-1]
            value = tuple((line[column] or "").strip() for column in COLUMNS)
            groups[name] = value
            groups.setdefault(Path(name).stem, value)  # a crop bears its photo's stem
    return groups


def group_of(groups, path):
    """(age, ethnicity) of a photo or a crop of it, by its name or stem, from read_groups(); None: not known."""
    return groups.get(path.name) or groups.get(path.stem)


def auxiliary_labels(files, columns, path):
    """(labels int64 [N, tasks], number of classes of each task) for crops (paths), a task a column; -1: not known."""
    import torch  # only here: test.py reads groups before it needs the network

    if not columns:
        return torch.empty(len(files), 0, dtype=torch.int64), []
    groups = read_groups(path)
    if groups is None:
        script.fail(f"AUXILIARY={columns}: no {path}, which some importers in data/ write; set AUXILIARY=()")
    labels, sizes = [], []
    for column in columns:
        texts = [(group_of(groups, f) or ("",) * len(COLUMNS))[COLUMNS.index(column)] for f in files]
        values = [text or None for text in texts]
        if column == "age":
            first = [metrics.age_band(text)[1] for text in texts]
            values = [None if age is None else bisect.bisect(AGES, age) - 1 for age in first]
        kinds = sorted(set(values) - {None})
        if len(kinds) < 2:
            script.fail(f"{path} tells no {column} of these crops: leave it out of AUXILIARY")
        labels.append([-1 if value is None else kinds.index(value) for value in values])
        sizes.append(len(kinds))
    return torch.tensor(labels).T.contiguous(), sizes


def auxiliary_loss(logits, labels, sizes):
    """Sum over the tasks of their cross-entropies: float32 [N], where a task whose label is -1 counts 0.

    `logits`: [N, sum of `sizes`], one task's classes after the other's; `labels`: int64 [N, tasks].
    """
    from torch.nn import functional

    parts = zip(logits.split(sizes, 1), labels.unbind(1), strict=True)
    return sum(functional.cross_entropy(part, label, ignore_index=-1, reduction="none") for part, label in parts)
