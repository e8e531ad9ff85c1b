"""Auxiliary tasks, which the network can learn beside the class, with more outputs of its last layer. Nothing to run.

Caruana, "Multitask Learning", Machine Learning 1997.
"""

import bisect

import torch
from torch.nn import functional

from faces import people
from terminal import script

TASKS = ("age", "ethnicity")  # columns of people.csv; the age comes first, since weights files keep its outputs
WEIGHT = 0.2  # of each task's loss; the class's loss has 1
AGES = (0, 1, 2, 3, 5, 8, 11, 14, 17, 20, 24, 28, 33, 40, 50, 60, 70, 80)  # first year of each class of "age"


def labels(known, columns):
    """The labels of the tasks `columns`: (labels int64 [N, tasks], -1: unknown; number of classes of each task; first
    years of the classes of "age", or []). Tasks come in the order of TASKS.

    `known`: a people.Person for each of the N crops.
    """
    ages = []
    if not columns:
        return torch.empty(len(known), 0, dtype=torch.int64), [], ages
    found, sizes = [], []
    for column in sorted(columns, key=TASKS.index):
        values = [getattr(person, column) or None for person in known]
        if column == "age":
            years = [people.age_band(text)[1] for text in values]
            values = [None if year is None else AGES[bisect.bisect(AGES, year) - 1] for year in years]
        kinds = sorted(set(values) - {None})
        if len(kinds) < 2:
            found_what = f"only one {column}" if kinds else f"no {column}"
            script.fail(f"validation.py has found {found_what} of these crops in {people.PEOPLE}, which the importers "
                        f"in data/ write: leave {column} out of AUXILIARY")
        if column == "age":
            ages = kinds
        found.append([-1 if value is None else kinds.index(value) for value in values])
        sizes.append(len(kinds))
    return torch.tensor(found).T.contiguous(), sizes, ages


def loss(logits, labels, sizes):
    """Cross-entropy summed over the tasks: float32 [N]; a task whose label is -1 counts 0.

    `logits`: [N, sum of `sizes`], one task after the other; `labels`: int64 [N, tasks].
    """
    parts = zip(logits.split(sizes, 1), labels.unbind(1), strict=True)
    return sum(functional.cross_entropy(part, label, ignore_index=-1, reduction="none") for part, label in parts)
