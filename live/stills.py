"""The photos of realtime.py: which there are, their faces, and showing or writing them one by one. Nothing to run."""

import contextlib
import dataclasses
import importlib.util
import os
from pathlib import Path
from typing import NamedTuple

import cv2

from faces import cropping, detectors, reading
from live import clips, results, sources, tracks, window, writing
from live.controls import NEXT, PHOTO_HELP
from terminal import files, script
from terminal.files import normal

MOTION_START = 4_000_000  # bytes in which the second picture of a video of JPEGs begins
LINES = ("photos", "faces", "no face", "unreadable")


def portrait():
    """The photo of a person that comes with matplotlib."""
    spec = importlib.util.find_spec("matplotlib")
    path = Path(spec.origin).parent / "mpl-data/sample_data/grace_hopper.jpg" if spec and spec.origin else None
    if path is None or not path.is_file():  # some systems' own matplotlib has no samples
        script.fail("there is no camera, nor matplotlib's portrait: set SOURCE=<video, photo or folder>")
    return path


def photos_of(source):
    """The photos of a folder, or [source] for a photo, or [] for what may be a video."""
    path = Path(source)
    if path.is_dir():
        paths, videos = clips.photos_and_clips(path)
        if videos:
            first = script.command_line(f"SOURCE={videos[0]}")
            hint = f"{path} has {len(videos)} clip(s), to be played one by one: {first}"
            if not paths:
                script.fail(hint)
            print(hint, flush=True)
        elif not paths:
            script.fail(f"{path} has no photos: set SOURCE=<folder with photos, photo, video or camera number>")
        return paths
    if not path.is_file():
        script.fail(f"there is no {path}: set SOURCE=<camera number, video, photo, folder or address>")
    photo = reading.named_as_photo(path) or reading.begins_as_photo(path) and not is_motion_jpeg(path)
    return [path] if photo else []


def is_motion_jpeg(path):
    """Whether a file is a video of JPEGs one after the other, which begins as a photo does."""
    with open(path, "rb") as file:
        start = file.read(MOTION_START)
    # A photo of several pictures (MPO) tells so in a block of its own; previews lie in blocks, with others after them.
    return path.suffix.lower() in (".mjpeg", ".mjpg") or b"\xff\xd9\xff\xd8" in start and b"MPF\0" not in start


def outputs(output, paths, folder):
    """The path of each photo's annotated picture: list, None each where nothing is to be written."""
    if output is None or not paths:
        return [None] * len(paths)
    target = Path(output)
    if len(paths) == 1 and target.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp", ".bmp"):
        place, names = target.parent, [target]
    elif target.suffix.lower() in writing.FOURCC or target.is_file():
        script.fail(f"OUTPUT={output}: photos are written to a folder, so name one")
    else:
        place, names = target, apart([target / p.relative_to(folder) for p in paths])
    if identities(names) & identities(paths):
        script.fail(f"OUTPUT={output} would replace the photos themselves: name another folder")
    files.claim(place, [path.relative_to(place).as_posix() for path in names])
    return names


def identities(paths):
    """What tells the files apart that are there, whatever their names: links of both kinds are what they lead to."""
    found = set()
    for path in paths:
        with contextlib.suppress(OSError):
            status = os.stat(path)
            found.add((status.st_dev, status.st_ino))
    return found


def apart(paths):
    """Names for annotated pictures of photos, no two alike on any disk: a.png, a.webp.jpg of a.webp, a.webp-2.jpg."""
    def stays(path):
        return path.suffix.lower() in (".jpg", ".jpeg", ".png")

    names, taken = {}, set()
    for photo in sorted(paths, key=stays, reverse=True):  # names that can stay come first
        path, count = photo if stays(photo) else photo.with_name(photo.name + ".jpg"), 1
        stem = path.stem
        while normal(str(path)).lower() in taken:
            count += 1
            path = path.with_name(f"{stem}-{count}{path.suffix}")
        taken.add(normal(str(path)).lower())
        names[photo] = path
    return [names[photo] for photo in paths]


class Photo(NamedTuple):
    path: Path
    name: str  # within the folder that was named
    target: Path | None  # of the annotated picture


def album(source, output=None):
    """The photos of a source: list of Photo; [] for a camera, an address, and what may be a video."""
    if sources.is_live(source):
        return []
    paths = photos_of(source)
    folder = Path(source) if Path(source).is_dir() else Path(source).parent
    return [Photo(path, path.relative_to(folder).as_posix(), target)
            for path, target in zip(paths, outputs(output, paths, folder), strict=True)]


def classify(photo, classifier, detector, first=1):
    """The faces of an RGB photo, list of tracks.Face numbered from `first` on, and their crops."""
    found = detectors.main_and_others(detector, photo)
    crops = [cropping.crop_face(photo, face.box, classifier.margin, classifier.clahe, face.roll) for face in found]
    if not crops:
        return [], []
    return [tracks.Face(first + i, face.box, face.roll, classifier.label(p, child), float(p.max()))
            for i, (face, p, child) in enumerate(zip(found, *classifier.predict(crops), strict=True))], crops


class Page:
    """A photo with its faces, as it is drawn. `faces` and `crops`: of classify()."""

    def __init__(self, photo, faces, crops, classifier):
        self.frame, self.faces, self.crops = cv2.cvtColor(photo, cv2.COLOR_RGB2BGR), faces, crops
        self.classifier = classifier

    def draw(self, controls, lines=()):
        """The picture, BGR, as the controls want it."""
        if controls.heat and self.faces and self.faces[0].heat is None:
            heats = self.classifier.explain(self.crops)
            self.faces = [face._replace(heat=heat) for face, heat in zip(self.faces, heats, strict=True)]
        return controls.draw(self.frame, self.faces, [face.box for face in self.faces], self.classifier, lines)

    def turn(self, screen, controls, place, log):
        """Show it until a key asks for the next photo, or the end. `place`: which photo of how many this is."""
        while not controls.quit:
            lines = [f"{place}   h: help"] + [controls.counted(log, self.classifier.classes)] * controls.counts
            picture = self.draw(controls, lines + list(PHOTO_HELP) * controls.help)
            if controls.obey(screen.key(picture, 50), picture) in NEXT:
                return

    def write(self, path, controls):
        """Write the picture, without what the keys m and g add. Where its format cannot hold it, that is only said."""
        try:
            writing.save_photo(path, self.draw(dataclasses.replace(controls, mirror=False, heat=False)))
        except script.Problem as problem:
            print(problem)


def annotate(photos, classifier, controls, log, detector, screen=None):
    """Find and classify the faces of photos (list of Photo), one by one; print, log, show and write them.

    `classifier`: a learn.classifier.Classifier; `log`: a results.Results; `detector`: of detectors.get(). Returns the
    counts: dict.
    """
    screen, counts = screen or window.Window(controls.show), dict.fromkeys(LINES, 0)
    try:
        for i, photo in enumerate(photos):
            try:
                pixels = reading.read_photo(photo.path)
            except reading.PhotoError as error:
                print(f"{photo.name}: skipped, {error}")
                counts["unreadable"] += 1
                continue
            faces, crops = classify(pixels, classifier, detector, counts["faces"] + 1)
            said = [controls.text_of(face.label, face.confidence, classifier.classes) for face in faces]
            print(f"{photo.name}: {', '.join(said) or 'no face found'}", flush=True)
            log.add(results.rows_of(faces, None, photo.name, classifier.classes))
            counts["photos"] += 1
            counts["faces"] += len(faces)
            counts["no face"] += not faces
            page, blurred = Page(pixels, faces, crops, classifier), controls.blur
            if photo.target:
                page.write(photo.target, controls)
            if controls.show:
                page.turn(screen, controls, f"{i + 1} of {len(photos)}", log)
            if photo.target and controls.blur != blurred:
                page.write(photo.target, controls)
            if controls.quit:
                break
    finally:
        screen.close()
        log.close()
    print(", ".join(f"{counts[line]} {line}" for line in LINES))
    print(f"different faces: {controls.counted(log, classifier.classes)}")
    return counts
