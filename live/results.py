"""The detections of realtime.py as data: counts by class, and rows of a CSV file. docs/live.md explains its columns."""

import collections
import contextlib
import csv
import errno
import io
import os
from pathlib import Path
from typing import NamedTuple

from live import sources
from terminal import files, records, script
from terminal.names import UNSURE


class Row(NamedTuple):
    """A face in a frame: a row of the file."""

    source: str
    time: float | None
    face: int
    label: str  # the column class
    confidence: float | None
    x: int
    y: int
    width: int
    height: int

    def cells(self):
        """The cells of the row: texts and numbers."""
        timestamp = "" if self.time is None else f"{self.time:.3f}"
        confidence = "" if self.confidence is None else f"{self.confidence:.4f}"
        return (self.source, timestamp, self.face, self.label, confidence, self.x, self.y, self.width, self.height)


COLUMNS = tuple("class" if name == "label" else name for name in Row._fields)


def name_of(source):
    """The value of the column source for a camera, an address or a file."""
    if isinstance(source, int):
        return str(source)
    return sources.public(source) if sources.is_live(source) else Path(source).name


def rows_of(faces, timestamp, source, classes):
    """The rows of the faces (list of tracks.LabelledFace) of a frame, or of a photo, if `timestamp` is None."""
    rows = []
    for face in faces:
        label = UNSURE if face.label is None else classes[face.label]
        if face.confidence is None:  # not classified yet
            label = ""
        rows.append(Row(source, timestamp, face.number, label, face.confidence, *(int(round(v)) for v in face.box)))
    return rows


class Results:
    """Counts the rows of a run by class, and writes them to the CSV file `log`, unless it is None.

    `source`: the value of the column source. The rows of a frame are written at once, so that the file has whole rows
    at any time, also after Ctrl-C. Raises script.Problem if `log` would replace a file of the user's.
    """

    def __init__(self, log=None, source=""):
        self.log, self.source = log, source
        self.file, self.stack = None, contextlib.ExitStack()  # the stack closes the file and unlocks it
        self.labels = {}  # number of a face -> Counter of its labels, in frames
        if log is not None:
            records.claim_table(log, COLUMNS)
            self.check_unused()

    def check_unused(self):
        """Raise Problem if another run is writing the file."""
        if os.path.isfile(self.log):
            with files.locked(self.log, wait=False) as mine:
                if mine is False:
                    raise script.Problem(f"LOG={self.log} is being written by another run: give this one another name")

    def write(self, lines):
        """Append lines of cells to the file, in a single write."""
        text = io.StringIO()
        csv.writer(text).writerows(lines)
        data = text.getvalue().encode("utf-8", "surrogateescape")  # file names need not be valid UTF-8
        if self.file.write(data) != len(data):
            raise OSError(errno.ENOSPC, "no space left on the drive", self.file.name)

    def add(self, rows):
        """Add the rows of a frame, or of a photo. The first call replaces the file of an earlier run."""
        if self.log is not None and self.file is None:
            self.check_unused()
            regular = not os.path.exists(self.log) or os.path.isfile(self.log)  # not a device
            if regular:
                with files.atomic(self.log):  # a new file: the old one may have other hard links
                    pass
            self.file = self.stack.enter_context(open(self.log, "ab", buffering=0))
            if regular:
                self.stack.enter_context(files.locked(self.log, wait=False))
            self.write([COLUMNS])
        for row in rows:
            if row.label:
                self.labels.setdefault(row.face, collections.Counter())[row.label] += 1
        if self.file and rows:
            self.write([row.cells() for row in rows])

    def written(self):
        """List of the name of the file if this run has started it and it is still there, else []."""
        return [self.log] if self.file and os.path.exists(self.log) else []

    def close(self):
        """Close the file; say so if somebody has deleted it meanwhile."""
        self.stack.close()
        if self.file and not os.path.exists(self.log):
            print(f"LOG={self.log} was deleted during the run: its rows are lost", flush=True)

    def text(self, classes, names):
        """How many different faces each class has: '7 man, 4 woman, 1 unsure'. A face counts by its label in most
        frames. `classes`: names, in this order; `names`: {class, or "unsure": text on the screen}.
        """
        counts = collections.Counter(labels.most_common(1)[0][0] for labels in self.labels.values())
        return ", ".join(f"{counts[c]} {names.get(c, c)}" for c in (*classes, UNSURE) if counts[c]) or "no face"
