"""Folders that must be kept apart: inputs, outputs and the code. Nothing to run."""

import itertools
import os
from pathlib import Path

from terminal.files import is_link, same_file
from terminal.names import normal
from terminal.script import fail

# Folders that the steps or the user write for the next step: {constant: default}. The steps repeat their own at their
# top, where users edit them; the importers take theirs from here.
PLACES = {"RAW_DIR": "data/raw", "TEST_DIR": "data/test", "FACES_DIR": "processed/faces",
          "TRAIN_DIR": "processed/train", "VALID_DIR": "processed/valid", "WEIGHTS_DIR": "weights"}
CODE = (".git", ".github", "docs", "faces", "judge", "learn", "live", "terminal", "tests", "tools")  # of this project


def check_apart(**places):
    """End the program if one of the folders or files, {name of its constant: path}, is another one, or inside it.

    Links are followed, and case is ignored, as on many disks.
    """
    found = {name: Path(os.path.realpath(path)) for name, path in places.items()}
    for (one, inner), (other, outer) in itertools.permutations(found.items(), 2):
        for place in (inner, *inner.parents):
            if normal(str(place)).casefold() == normal(str(outer)).casefold() or same_file(place, outer):
                fail(f"{one}={places[one]} and {other}={places[other]} must be separate, not one inside the other: "
                     "name another place")


def check_classes_apart(name, folder, **places):
    """check_apart() for a folder with class folders, and for each of these that is a link. `name`: of its constant."""
    check_apart(**{name: folder}, **places)
    for path in Path(folder).glob("*"):
        if is_link(path):
            check_apart(**{f"{name}/{path.name}": path}, **places)


def check_outputs(settings, *names):
    """End the program if an output folder of a script is, contains or is in one of PLACES that is not its own, or CODE.
    `settings`: the script's globals(); `names`: its constants that name output folders."""
    others = {(name, name) for name in CODE}
    for name in PLACES.keys() - set(names):
        others.add((name, PLACES[name]))
        others.add((name, settings.get(name) or PLACES[name]))
    for name in names:
        for other, place in sorted(others):
            check_apart(**{name: settings[name], other: place})
