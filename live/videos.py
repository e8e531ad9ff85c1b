"""Plays a clip without a window: the detections that realtime.py would log, frame by frame. Nothing to run."""

import contextlib

from faces import reading
from live import capture, results, tracks
from terminal import script

# Suffixes of clips, which test.py plays; photos are recognised by their content, see faces/reading.py.
SUFFIXES = set(".mp4 .m4v .mov .avi .mkv .webm .wmv .asf .flv .mpg .mpeg .mpe .m2v .ts .mts .m2ts .3gp .3g2 .ogv .ogg "
               ".vob .mxf .mjpeg .mjpg .divx .dv".split())


def photos_and_clips(folder):
    """(paths of the photos, paths of the clips) under a folder, both sorted. A clip is recognised by its suffix."""
    others = []
    photos = reading.list_photos(folder, others)
    clips = {path for path in photos + others if path.suffix.lower() in SUFFIXES}  # a .mjpeg begins like a photo
    return [path for path in photos if path not in clips], sorted(clips)


def follow(path, classifier, detector):
    """Play a clip. Yields (seconds by its clock, list of results.Row) for each frame, as realtime.py logs them.

    `classifier`: a learn.classifier.Classifier; `detector`: returned by detectors.get(). Raises script.Problem.
    """
    tracker = tracks.Tracker(classifier, detector)
    with contextlib.closing(capture.Reader(path)) as reader:
        while not reader.finished():
            if (got := reader.read()) is not None:
                frame, timestamp, _ = got
                faces = [track.face() for track in tracker.step(frame, timestamp, reader.brief)]
                yield timestamp, results.rows_of(faces, timestamp, results.name_of(path), classifier.classes)
    if not reader.received or (reader.brief and reader.problem()):
        raise script.Problem("unreadable (damaged, or no video)")


def labels(path, classifier, detector):
    """follow() for the largest face only: yields (seconds, its label), with None for a frame without a face."""
    for timestamp, rows in follow(path, classifier, detector):
        largest = max(rows, key=lambda row: row.width * row.height, default=None)
        yield timestamp, None if largest is None else largest.label
