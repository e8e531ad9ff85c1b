"""The photos of realtime.py: which there are, their faces, and showing or writing them one by one. Nothing to run."""

import importlib.util
import os
from pathlib import Path

import cv2

from faces import cutting, finding, reading
from live import capture, overlay, window
from terminal import script

HELP = ("h  help", "q, Esc  quit", "any other key  next photo", "s  snapshot", "g  Grad-CAM")
LINES = ("photos", "faces", "no face", "unreadable")


def portrait():
    """The photo of a person that comes with matplotlib."""
    spec = importlib.util.find_spec("matplotlib")
    path = Path(spec.origin).parent / "mpl-data/sample_data/grace_hopper.jpg" if spec and spec.origin else None
    if path is None or not path.is_file():
        script.fail("there is no camera, nor matplotlib's portrait: set SOURCE=<video, photo or folder>")
    return path


def photos_of(source):
    """The photos of a folder, or [source] for a photo, or [] for what may be a video."""
    path = Path(source)
    if path.is_dir():
        paths = reading.list_photos(path)
        if not paths:
            script.fail(f"{path} has no photos: set SOURCE=<folder with photos, photo, video or camera number>")
        return paths
    if not path.is_file():
        script.fail(f"there is no {path}: set SOURCE=<camera number, video, photo, folder or address>")
    return [path] if path.suffix.lower() in reading.PHOTO_SUFFIXES else []


def outputs(output, paths, folder):
    """A function: index -> path of the annotated picture; None where nothing is to be written."""
    if output is None:
        return None
    target = Path(output)
    if len(paths) == 1 and target.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp", ".bmp"):
        names = [target]
    elif target.suffix.lower() in capture.FOURCC or target.is_file():
        script.fail(f"OUTPUT={output}: photos are written to a folder, so name one")
    else:
        names = [target / p.relative_to(folder) for p in paths]
        names = [p if p.suffix.lower() in (".jpg", ".jpeg", ".png") else p.with_name(p.name + ".jpg") for p in names]
    if {os.path.realpath(p) for p in names} & {os.path.realpath(p) for p in paths}:  # Path.resolve raises on loops
        script.fail(f"OUTPUT={output} would replace the photos themselves: name another folder")
    return names.__getitem__


def faces_of_photo(image):
    """Boxes of an RGB photo: the face that test.py takes first, then the others."""
    first = finding.main_face(image)
    if first is None:
        return []
    return [first] + [b for b in finding.find_faces(image) if finding.inside(b, first) < 0.5]


def answer(photo, info, classify, size, text_of):
    """The faces of an RGB photo: list of (box, text, class index or None), and their crops of `size` pixels."""
    boxes = faces_of_photo(photo)
    crops = [cutting.crop_face(photo, box, info["margin"], size, info["clahe"]) for box in boxes]
    faces = []
    for box, p in zip(boxes, classify(crops) if crops else [], strict=True):
        label = int(p.argmax()) if p.max() >= info["threshold"] else None
        faces.append((box, text_of(label, p.max(), info["classes"]), label))
    return faces, crops


def show(screen, photo, faces, crops, margin, explain, place, view):
    """Show a photo until a key is pressed. `view`: dict of what the keys h and g have switched on."""
    frame = cv2.cvtColor(photo, cv2.COLOR_RGB2BGR)
    heats = None
    while True:
        if view["heat"] and crops and heats is None:
            heats = explain(crops)
        drawn = [(*face, heats[i] if view["heat"] else None) for i, face in enumerate(faces)]
        picture = overlay.draw(frame, drawn, HELP if view["help"] else [f"{place}   h: help"], margin=margin)
        key = screen.key(picture, 50)
        if key == ord("s"):
            window.snapshot(picture)
        elif key in (ord("h"), ord("g")):
            name = {"h": "help", "g": "heat"}[chr(key)]
            view[name] = not view[name]
        elif key >= 0:
            view["quit"] = key in window.QUIT
            return


def annotate(paths, folder, output, loaded, size, text_of, shown):
    """Find and classify the faces of photos, one by one; write (`output`: path of an index) and show the pictures.

    `loaded`: a future of realtime.load(); `size`: pixels a side of the crops that it classifies. Prints a line a photo
    and the counts. Returns the dict of counts.
    """
    info, classify, explain = loaded.result()
    screen, counts = window.Window(shown), dict.fromkeys(LINES, 0)
    view = {"help": False, "heat": False, "quit": False}
    try:
        for i, path in enumerate(paths):
            name = path.relative_to(folder).as_posix()
            try:
                photo = reading.read_photo(path)
            except reading.PhotoError as error:
                print(f"{name}: skipped, {error}")
                counts["unreadable"] += 1
                continue
            faces, crops = answer(photo, info, classify, size, text_of)
            print(f"{name}: {', '.join(text for _, text, _ in faces) or 'no face found'}", flush=True)
            counts["photos"] += 1
            counts["faces"] += len(faces)
            counts["no face"] += not faces
            if output:
                drawn = [(*face, None) for face in faces]
                try:
                    window.save_photo(output(i), overlay.draw(cv2.cvtColor(photo, cv2.COLOR_RGB2BGR), drawn))
                except script.Problem as problem:
                    print(problem)
            if shown:
                show(screen, photo, faces, crops, info["margin"], explain, f"{i + 1} of {len(paths)}", view)
            if view["quit"]:
                break
    finally:
        screen.close()
    print(", ".join(f"{counts[line]} {line}" for line in LINES))
    return counts
