"""The photos of realtime.py: lists them, classifies their faces, shows or writes them one by one. Nothing to run."""

import contextlib
import dataclasses
import importlib.util
import os
from pathlib import Path
from typing import NamedTuple

import cv2

from faces import cropping, detectors, reading
from live import overlay, results, sources, tracks, videos, writing
from live.controls import BACK, NEXT, PHOTO_HELP
from terminal import places, records, script, stops
from terminal.names import normal, safe_name

MOTION_START = 4_000_000  # bytes within which the second frame of a Motion JPEG begins
PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")  # suffixes that OUTPUT may have for a photo
REDRAW = 500  # milliseconds without a key after which a picture is drawn again
COUNTS = ("photos", "faces", "no face", "unreadable")  # that the last line gives


def portrait():
    """The path of the photo of a person that comes with matplotlib."""
    spec = importlib.util.find_spec("matplotlib")
    path = Path(spec.origin).parent / "mpl-data/sample_data/grace_hopper.jpg" if spec and spec.origin else None
    if path is None or not path.is_file():  # matplotlib packages of some Linux distributions have no samples
        script.fail("there is neither a camera nor matplotlib's portrait: set SOURCE=<video, photo or folder>")
    return path


def photos_of(source):
    """The photos of a folder, or [source] for a photo, or [] for what may be a video."""
    path = Path(source)
    if path.is_dir():
        paths, clips = videos.photos_and_clips(path)
        if clips:
            first = script.command_line(f"SOURCE={clips[0].as_posix()}")
            hint = f"{path.as_posix()} has {len(clips)} clip(s), play them one by one: {first}"
            if not paths:
                script.fail(hint)
            print(hint, flush=True)
        elif not paths:
            script.fail(f"{path} has no photos: set SOURCE=<folder with photos, photo, video or camera number>")
        return paths
    if not path.is_file():
        script.fail(f"there is no {path}: set SOURCE=<camera number, video, photo, folder or address>")
    if reading.named_as_photo(path) or (reading.begins_as_photo(path) and not is_motion_jpeg(path)):
        return [path]
    return []


def is_motion_jpeg(path):
    """Whether a file is a Motion JPEG, a sequence of JPEGs, which begins like a photo."""
    with open(path, "rb") as file:
        start = file.read(MOTION_START)
    # An MPO has several pictures and an MPF segment. A preview lies within a segment, so no start mark follows its end.
    has_several = b"\xff\xd9\xff\xd8" in start and b"MPF\0" not in start
    return has_several or path.suffix.lower() in (".mjpeg", ".mjpg")


def outputs(output, paths, folder):
    """The path of each photo's annotated picture: list; of None if nothing is written.

    `output`: a folder, a file, or None; `paths`: of the photos, all in or below `folder`.
    """
    if output is None or not paths:
        return [None] * len(paths)
    target = Path(output)
    suffix = target.suffix.lower()
    if target.is_dir() or not (target.is_file() or reading.named_as_photo(target) or suffix in writing.FOURCC):
        places.check_outputs({"OUTPUT": output}, "OUTPUT")
        inner = [path.relative_to(folder).parts for path in paths]
        target_folder, targets = target, apart([target.joinpath(*map(safe_name, parts)) for parts in inner])
    elif len(paths) > 1:
        script.fail(f"OUTPUT={output}: {len(paths)} photos are written to a folder: set OUTPUT=<folder>")
    elif suffix not in PICTURES:
        script.fail(f"OUTPUT={output}: a photo is written to a folder, or to a file whose name ends in one of "
                    f"{', '.join(PICTURES)}")
    else:
        target_folder, targets = target.parent, [target]
    if identities(targets) & identities(paths):
        script.fail(f"OUTPUT={output} would replace the photos themselves: name another folder")
    records.claim(target_folder, [path.relative_to(target_folder).as_posix() for path in targets])
    return targets


def identities(paths):
    """{(device, inode)} of the files that exist, which is equal for hard links and for symbolic links to one file."""
    found = set()
    for path in paths:
        with contextlib.suppress(OSError):
            status = os.stat(path)
            found.add((status.st_dev, status.st_ino))
    return found


def apart(paths):
    """`paths`, changed so that annotated pictures can have these names: a.webp becomes a.webp.jpg, or a.webp-2.jpg if
    that is taken; JPEG and PNG files keep theirs. No two are the same name on a case-insensitive disk."""
    def stays(path):
        return path.suffix.lower() in (".jpg", ".jpeg", ".png")

    names, taken = [None] * len(paths), set()  # by index, since Paths that differ in case are equal on Windows
    for i, photo in sorted(enumerate(paths), key=lambda pair: stays(pair[1]), reverse=True):  # unchanged names first
        path = photo if stays(photo) else photo.with_name(safe_name(photo.name + ".jpg"))
        stem, count = path.stem, 1
        while normal(str(path)).lower() in taken:
            count += 1
            path = path.with_name(safe_name(f"{stem}-{count}{path.suffix}"))
        taken.add(normal(str(path)).lower())
        names[i] = path
    return names


class AlbumPhoto(NamedTuple):
    """A photo to annotate."""

    path: Path
    name: str  # relative to SOURCE
    target: Path | None  # of the annotated picture; None: not written


def album(source, output=None):
    """The photos of a source: list of AlbumPhoto; [] for a camera, an address, or what may be a video."""
    if sources.is_live(source):
        return []
    paths = photos_of(source)
    folder = Path(source) if Path(source).is_dir() else Path(source).parent
    return [AlbumPhoto(path, path.relative_to(folder).as_posix(), target)
            for path, target in zip(paths, outputs(output, paths, folder), strict=True)]


def classify(photo, classifier, detector, first=1):
    """The faces of an RGB photo: list of tracks.LabelledFace, numbered from `first` on."""
    found = detectors.main_and_others(detector, photo)
    crops = [cropping.crop_face(photo, face.box, classifier.margin, classifier.clahe, face.roll) for face in found]
    return [tracks.LabelledFace(first + i, face.box, face.roll, classifier.label(p, child), float(p.max()))
            for i, (face, p, child) in enumerate(zip(found, *classifier.predict(crops), strict=True))]


class Still:
    """A photo, or the last frame of a clip, which keys draw again.

    `frame`: BGR, uint8 [H, W, 3]; `faces`: list of tracks.LabelledFace; `boxes`: see Controls.draw(); `classifier`: a
    learn.classifier.Classifier, or None while it loads.
    """

    def __init__(self, frame, faces, boxes, classifier):
        self.frame, self.faces, self.boxes, self.classifier = frame, faces, boxes, classifier

    def draw(self, controls):
        """The picture, BGR, with the settings of `controls`."""
        if controls.heat and self.classifier and any(face.heat is None for face in self.faces):
            margin, clahe = self.classifier.margin, self.classifier.clahe
            crops = [cropping.crop_frame(self.frame, face.box, margin, clahe, face.roll) for face in self.faces]
            heats = self.classifier.explain(crops)
            self.faces = [face._replace(heat=heat) for face, heat in zip(self.faces, heats, strict=True)]
        return controls.draw(self.frame, self.faces, self.boxes, self.classifier)


class Viewer:
    """Finds and classifies the faces of AlbumPhotos, prints, logs and writes each photo once, and shows it as often as
    keys ask for it.

    `classifier`: a learn.classifier.Classifier; `log`: a results.Results; `detector`: returned by
    detectors.get(); `note`: a line shown with each photo. `counts`: numbers by COUNTS.
    """

    def __init__(self, photos, classifier, controls, log, detector, note=""):
        self.photos, self.classifier, self.controls, self.log = photos, classifier, controls, log
        self.detector, self.note, self.counts = detector, note, dict.fromkeys(COUNTS, 0)
        self.faces = {}  # index of a photo -> its faces; [] if it could not be read
        self.written = set()  # paths of annotated pictures

    def still_of(self, index):
        """The Still of a photo, or None if it cannot be read."""
        photo, first = self.photos[index], index not in self.faces
        try:
            pixels = reading.read_photo(photo.path)
        except reading.PhotoError as error:
            if first:
                print(f"{photo.name}: skipped, {error}")
                self.counts["unreadable"] += 1
                self.faces[index] = []
            return None
        if first:
            self.faces[index] = classify(pixels, self.classifier, self.detector, self.counts["faces"] + 1)
        faces = self.faces[index]
        still = Still(cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), faces, [face.box for face in faces], self.classifier)
        if first:
            with stops.later():
                self.tell(photo, still)
        return still

    def tell(self, photo, still):
        """Count, print, log and write a photo."""
        faces, classes = still.faces, self.classifier.classes
        self.counts["photos"] += 1
        self.counts["faces"] += len(faces)
        if not faces:
            self.counts["no face"] += 1
        said = [self.controls.text_of(face.label, face.confidence, classes) for face in faces]
        print(f"{photo.name}: {', '.join(said) or 'no face found'}", flush=True)
        self.log.add(results.rows_of(faces, None, photo.name, classes))
        self.write(photo, still)

    def write(self, photo, still):
        """Write the picture, without the effects of the keys m and g. If its format cannot hold it, only print that."""
        if not photo.target:
            return
        picture = still.draw(dataclasses.replace(self.controls, mirror=False, heat=False))
        try:
            writing.save_photo(photo.target, picture)
            self.written.add(photo.target)
        except writing.TooLarge as problem:
            print(problem)

    def following(self, index, step):
        """(index, Still) of the next photo that can be read, or with `step` -1 of the previous one; None at the end."""
        end = len(self.photos) if step > 0 else -1
        for other in range(index + step, end, step):
            still = self.still_of(other)
            if still is not None:
                return other, still
        return None

    def show(self, index, still, screen):
        """Show a photo until a key asks for another one. Returns 1 for the next, -1 for the previous, 0 to quit."""
        controls, blurred, step = self.controls, self.controls.blur, 0
        while not controls.quit and not step:
            lines = [self.note] if self.note else []
            lines.append(f"{index + 1} of {len(self.photos)}{overlay.BETWEEN}h: help")
            if controls.counts:
                lines.append(controls.counted(self.log, self.classifier.classes))
            if controls.help:
                lines.append(PHOTO_HELP)
            picture = still.draw(controls)
            key = controls.apply(screen.show(overlay.caption(picture, lines), REDRAW), picture)
            if key in NEXT:
                step = 1
            elif key in BACK:
                step = -1
        if controls.blur != blurred:
            self.write(self.photos[index], still)
        return step

    def view(self, screen):
        """Show the photos until a key ends it; the first and the last one stay when a key asks for one beyond them."""
        shown = self.following(-1, 1)
        while shown:
            step = self.show(*shown, screen)
            if not step:
                return
            shown = self.following(shown[0], step) or shown


def annotate(photos, classifier, controls, log, detector, screen, note=""):
    """Annotate photos one by one, in the window.Window `screen` if it is shown. See Viewer.

    Returns the counts: dict of numbers by COUNTS, of pictures "written", and "stopped" (whether by Ctrl-C).
    """
    viewer, stopped = Viewer(photos, classifier, controls, log, detector, note), False
    try:
        if screen.shown:
            viewer.view(screen)
        else:
            for index in range(len(photos)):
                viewer.still_of(index)
    except KeyboardInterrupt:  # the files that were written are kept
        stopped = True
    finally:
        log.close()
    print(", ".join(f"{viewer.counts[what]} {what}" for what in COUNTS))
    print(f"different faces: {controls.counted(log, classifier.classes)}")
    return {**viewer.counts, "written": len(viewer.written), "stopped": stopped}
