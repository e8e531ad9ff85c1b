"""The record of a split, in both of its folders: what it was made from, whether it can be trained on, and what is known
of its crops. validation.py writes it, and dataset.py reads it. Nothing to run.
"""

import json
from pathlib import Path
from typing import NamedTuple

from faces.people import Person
from terminal.files import SPLIT, atomic

OTHER = "the record of the split is damaged, or of another version: run 'python validation.py' again"


class Split(NamedTuple):
    """The record of one of the two folders."""

    settings: dict  # what it was made from: the same settings give the same split
    report: list  # lines that validation.py prints
    problem: str | None  # why it cannot be trained on, one line
    clahe: float  # clip limit of the equalisation of its crops, see cropping.equalise()
    crops: dict  # {"class/name" of a crop in this folder: people.Person}


def read(folder):
    """The Split in `folder`, None where there is no record: a split that was made by hand has none."""
    try:
        record = json.loads(Path(folder, SPLIT).read_text("utf-8"))
        crops = {name: Person(*known) for name, known in record.pop("crops").items()}
        return Split(**record, crops=crops)
    except OSError:
        return None
    except (ValueError, AttributeError, KeyError, TypeError):
        return Split({}, [], OTHER, 0.0, {})


def write(folder, split):
    """Write the record of a Split."""
    with atomic(Path(folder, SPLIT)) as temporary:
        temporary.write_text(json.dumps(split._asdict()), "utf-8")
