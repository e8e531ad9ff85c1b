"""The notes on a split, in both of its folders: its settings, whether it can be trained on, and the people and sources
of its crops. validation.py writes them, and dataset.py reads them. Nothing to run.
"""

import itertools
import json
from pathlib import Path
from typing import NamedTuple

from faces.people import Person
from terminal.files import atomic, read_bytes
from terminal.names import normal
from terminal.records import SPLIT

OTHER = "the notes on the split are damaged, or from another version: run 'python validation.py' again"


class Split(NamedTuple):
    """The notes in one of the two folders."""

    settings: dict  # all that determines the split
    lines: list  # the report that validation.py prints
    problem: str | None  # why it cannot be trained on, one line
    clahe: float  # clip limit of the crops' equalisation, see cropping.equalise()
    crops: dict  # {"class/name" of a crop in this folder: people.Person}


def read(folder):
    """The Split in `folder`; None if the split was made by hand. Raises Problem, see files.read_bytes()."""
    data = read_bytes(Path(folder, SPLIT))
    if data is None:
        return None
    try:
        notes = json.loads(data.decode())
        crops = {normal(name): Person(*known) for name, known in notes.pop("crops").items()}
        found = Split(**notes, crops=crops)
        # Raises TypeError for anything but texts.
        "".join([*found.lines, found.problem or "", *itertools.chain.from_iterable(crops.values())])
        return found._replace(settings=dict(found.settings), clahe=float(found.clahe))
    except (ValueError, AttributeError, KeyError, TypeError, RecursionError):
        return Split({}, [], OTHER, 0.0, {})


def write(folder, split):
    """Write a Split into `folder`."""
    with atomic(Path(folder, SPLIT)) as temporary:
        temporary.write_text(json.dumps(split._asdict()), "utf-8")
