"""Step 1: photos -> face crops.

    python processed.py        data/raw/<class>/*  ->  processed/faces/<class>/*.jpg  (224x224 RGB)

Finds the face that each photo is about (large, in the middle, clearly a face) with the Haar cascade that ships with
OpenCV, cuts it square with a relative margin and saves it. Photos are only read. Photos that give no crop are listed,
with the reason, in processed/skipped.csv. Running it again does only what is missing or has changed.
"""

from terminal import script  # isort: skip  # first, see terminal/script.py

import collections
import csv
import functools
import hashlib
import os
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

import reading
from terminal import workers
from terminal.files import atomic, classes_of, sweep

# ------------------------------------------------------------------------------------------------
RAW_DIR = "data/raw"  # one subfolder a class
FACES_DIR = "processed/faces"
SKIPPED = "processed/skipped.csv"
WORKERS = 0  # processes; 0: one a core

IMAGE_SIZE = 224  # pixels a side of a crop, the paper's
MARGIN = 0.20  # added on each side of the Haar box, as a share of the box; chin and hair tell a lot
CLAHE = 0.0  # clip limit of the adaptive histogram equalisation of a crop's lightness, such as 2.0; 0.0: none
BORDER = 0.20  # replicated border around the photo, so that a face cut tight is found too
# Passes over a photo, each tried only where the one before gave nothing: (agreeing windows wanted, smallest face as a
# share of the photo's shorter side, step of the Haar pyramid, whether a second look must confirm the face). The first
# finds nearly all and is the fast one; the second finds half of the rest, and would bring in knees and curtains alone.
PASSES = ((5, 0.3, 1.1, False), (3, 0.2, 1.05, True))
# Of several faces, one this far from the photo's middle (in shorter sides) counts 0.6 of its size; and the first pass
# is not believed beyond FAR: there it often has a mouth, an eye, or a bystander.
OFF_CENTRE, FAR = 0.18, 0.25
LONGEST_SIDE = 640  # detection runs on a copy no larger than this, so that a 12-megapixel photo takes no seconds
SHORTEST_SIDE = 200  # and smaller photos are enlarged to this: the cascade knows no face under 24 pixels
JPEG_QUALITY = 95
# ------------------------------------------------------------------------------------------------

SKIPPED_TEXT = {"encoding": "utf-8", "errors": "surrogateescape"}  # names of files need not be text
FILL_RAW = f"put photos into {RAW_DIR}/<class>/, or run 'python data/drawn.py' for drawn faces to try things with"


@functools.cache
def cascade(name="frontalface_default"):
    """A Haar cascade of the opencv package, loaded once a process."""
    # Read through Python: OpenCV's own file access fails on Windows where the path has non-ASCII letters.
    text = Path(cv2.data.haarcascades, f"haarcascade_{name}.xml").read_text(encoding="utf-8")
    storage = cv2.FileStorage(text, cv2.FILE_STORAGE_READ | cv2.FILE_STORAGE_MEMORY)
    classifier = cv2.CascadeClassifier()
    if not classifier.read(storage.getFirstTopLevelNode()):
        script.fail("OpenCV's face cascade cannot be read: reinstall with pip install -r requirements.txt")
    return classifier


def search(image, neighbors=5, smallest=0.12, longest=LONGEST_SIDE, shortest=SHORTEST_SIDE, border=BORDER, step=1.1):
    """All faces of an RGB or gray uint8 image: int32 [N, 4] boxes (x, y, width, height), and how many windows of the
    cascade agree on each, int [N].

    Boxes are in the image's pixels and may reach over its edge, since the cascade runs on a replicated border.
    `smallest` is a share of the shorter side; `longest`/`shortest` bound the size of the copy that is searched.
    """
    height, width = image.shape[:2]
    gray = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    scale = min(1.0, longest / max(height, width)) if longest else 1.0
    if min(height, width) * scale < shortest:
        scale = min(shortest / min(height, width), 4 * LONGEST_SIDE / max(height, width))
    if scale != 1.0:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        gray = cv2.resize(gray, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    pad = round(border * min(gray.shape))
    if pad:
        gray = cv2.copyMakeBorder(gray, pad, pad, pad, pad, cv2.BORDER_REPLICATE)
    least = max(24, round(smallest * (min(gray.shape) - 2 * pad)))
    boxes, windows = cascade().detectMultiScale2(gray, step, neighbors, minSize=(least, least))
    boxes = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    boxes[:, :2] -= pad
    return np.rint(boxes / scale).astype(np.int32), np.asarray(windows, dtype=np.int64).reshape(-1)


def find_faces(image, *arguments, **more):
    """All faces of an image, int32 [N, 4] boxes (x, y, width, height), largest first. Arguments: those of search()."""
    boxes, _ = search(image, *arguments, **more)
    return boxes[np.argsort(-boxes[:, 2] * boxes[:, 3], kind="stable")]


def looks_like_a_face(image, box):
    """A second look at a doubtful box: another face cascade, or both eye cascades, find something in it too."""
    gray = cv2.cvtColor(crop_face(image, box, 0.3, 192), cv2.COLOR_RGB2GRAY)
    if len(cascade("frontalface_alt2").detectMultiScale(gray, 1.1, 1, minSize=(72, 72))):
        return True
    eyes = cv2.cvtColor(crop_face(image, box, 0.0, 160), cv2.COLOR_RGB2GRAY)[:96]
    size = {"minSize": (24, 24), "maxSize": (70, 70)}
    return all(len(cascade(name).detectMultiScale(eyes, 1.1, wanted, **size))
               for name, wanted in (("eye", 3), ("eye_tree_eyeglasses", 2)))


def off_centre(boxes, shape):
    """How far boxes [N, 4] are from the middle of a photo of `shape` (height, width, ...), in shorter sides: [N]."""
    height, width = shape[:2]
    return np.hypot(*(boxes[:, :2] + boxes[:, 2:] / 2 - np.array([width, height]) / 2).T) / min(height, width)


def prominence(boxes, windows, shape):
    """How much a photo of `shape` (height, width, ...) is about each face: float64 [N], to be compared only.

    A face's area, times the windows that agree on it, less the further it is from the middle of the photo. The area
    alone would take a bystander who stands nearer, or a box around head and shoulders that few windows agree on.
    """
    return boxes[:, 2] * boxes[:, 3] * windows * np.exp(-0.5 * (off_centre(boxes, shape) / OFF_CENTRE) ** 2)


def main_face(image):
    """The box (x, y, width, height) of the face that an RGB photo is about, or None. Not for live video."""
    for neighbors, smallest, step, confirm in PASSES:
        boxes, windows = search(image, neighbors, smallest, step=step)
        boxes = boxes[np.argsort(-prominence(boxes, windows, image.shape), kind="stable")]
        if not confirm and (off_centre(boxes[:1], image.shape) < FAR).any():
            return boxes[0]
        for box in boxes if confirm else ():
            if looks_like_a_face(image, box):
                return box
    return None


def square_around(box, margin):
    """(left, top, side), pixels, of the square cut for a box (x, y, width, height), `margin` more on each side."""
    x, y, width, height = (float(v) for v in box)
    side = max(2, round(max(width, height) * (1 + 2 * margin)))
    return round(x + width / 2 - side / 2), round(y + height / 2 - side / 2), side


def equalise(crop, limit):
    """Contrast-limited adaptive histogram equalisation (CLAHE) of the lightness of a uint8 [H, W, 3] RGB crop.

    `limit`: the clip limit, 0.0 gives the crop back as it is. Zuiderveld, "Contrast Limited Adaptive Histogram
    Equalization", Graphics Gems IV, 1994.
    """
    if not limit > 0:
        return crop
    lightness, a, b = cv2.split(cv2.cvtColor(crop, cv2.COLOR_RGB2LAB))
    lightness = cv2.createCLAHE(limit, (8, 8)).apply(lightness)
    return cv2.cvtColor(cv2.merge((lightness, a, b)), cv2.COLOR_LAB2RGB)


def crop_face(image, box, margin=MARGIN, size=IMAGE_SIZE, clahe=0.0):
    """Cut a face out: uint8 [size, size, 3] from the square around `box`, widened by `margin` on each side.

    Pixels beyond the image's edge repeat the edge, so that a face at the border is neither lost nor squeezed.
    `clahe` is the limit of equalise(), for which `image` must be RGB; without it any order of channels will do.
    """
    left, top, side = square_around(box, margin)
    image_height, image_width = image.shape[:2]
    x0, x1 = (min(max(v, 0), image_width) for v in (left, left + side))
    y0, y1 = (min(max(v, 0), image_height) for v in (top, top + side))
    if x0 == x1 or y0 == y1:
        raise ValueError(f"box {tuple(int(v) for v in box)} lies outside the {image_width}x{image_height} image")
    square = cv2.copyMakeBorder(image[y0:y1, x0:x1], y0 - top, top + side - y1, x0 - left, left + side - x1,
                                cv2.BORDER_REPLICATE)
    crop = cv2.resize(square, (size, size), interpolation=cv2.INTER_AREA if side > size else cv2.INTER_LINEAR)
    return equalise(crop, clahe)


def recut(crop, margin):
    """What crop_face() would have made with `margin`, of a square crop made with MARGIN: uint8 of the same shape."""
    if margin == MARGIN:
        return crop
    side = len(crop)
    box = side / (1 + 2 * MARGIN)
    return crop_face(crop, ((side - box) / 2, (side - box) / 2, box, box), margin, side)


def write_crop(path, crop, time=None):
    """Save an RGB crop as JPEG, whole or not at all; full colour resolution, so that disk and live agree.

    `time`: nanoseconds, becomes the file's time of modification.
    """
    settings = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY,
                cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    done, data = cv2.imencode(".jpg", cv2.cvtColor(crop, cv2.COLOR_RGB2BGR), settings)
    if not done:
        raise reading.PhotoError("crop cannot be encoded")
    with atomic(path) as temporary:
        temporary.write_bytes(data.tobytes())
        if time is not None:
            os.utime(temporary, ns=(time, time))


def read_crop(path):
    """Read a crop written by write_crop: uint8 [size, size, 3] RGB. Raises reading.PhotoError."""
    try:
        pixels = cv2.imdecode(np.frombuffer(Path(path).read_bytes(), np.uint8), cv2.IMREAD_COLOR)
    except (OSError, cv2.error) as error:
        raise reading.PhotoError(f"unreadable ({error})") from None
    if pixels is None:
        raise reading.PhotoError("not an image")
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)


def one_photo(job):
    """Worker: (photo, its time, crop path) -> (status, reason), status one of 'kept', 'no face', 'unreadable'.

    The crop bears its photo's time: a photo that changes is seen, and so is one replaced by an older one.
    """
    photo, time, target = job
    try:
        image = reading.read_photo(photo)
        box = main_face(image)
        if box is None:
            return "no face", "the cascade found no face"
        write_crop(target, crop_face(image, box, clahe=CLAHE), time)
    except reading.PhotoError as error:
        return "unreadable", str(error)
    return "kept", ""


def targets(photos, folder, faces_dir):
    """Crop path of each photo of a class: <stem>.jpg, or <whole name>.jpg where two photos share a stem.

    Names that still collide, that a disk may refuse for their length, or that are no text get a digest instead.
    """
    relative = [p.relative_to(folder) for p in photos]
    names = ["__".join(r.parts) for r in relative]
    count = collections.Counter(Path(n).stem.lower() for n in names)
    names = [n if count[Path(n).stem.lower()] > 1 else Path(n).stem for n in names]
    count = collections.Counter(n.lower() for n in names)
    for i, name in enumerate(names):
        raw = os.fsencode(name)
        text = raw.decode("utf-8", "ignore")
        if count[name.lower()] > 1 or len(raw) > 200 or text != name:
            names[i] = f"{text[:40]}-{hashlib.sha256(os.fsencode(relative[i].as_posix())).hexdigest()[:16]}"
    return [Path(faces_dir, folder.name, f"{name}.jpg") for name in names]


def recipe():
    """A short fingerprint of everything that shapes a crop: change one of these constants and crops are made anew."""
    facts = (IMAGE_SIZE, MARGIN, CLAHE, BORDER, PASSES, OFF_CENTRE, FAR, LONGEST_SIDE, SHORTEST_SIDE, JPEG_QUALITY)
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:12]


def load_skipped(path):
    """The rows of the last run's skipped.csv: photo -> (time, recipe, status, reason); empty where there is none."""
    try:
        with open(path, newline="", **SKIPPED_TEXT) as file:
            return {row["photo"]: (row["time"], row["recipe"], row["status"], row["reason"])
                    for row in csv.DictReader(file)}
    except (OSError, KeyError, csv.Error):
        return {}


def main():
    script.check(globals(), ("WORKERS", WORKERS >= 0, "at least 0"))
    classes = classes_of(RAW_DIR, FILL_RAW)
    made_with = Path(FACES_DIR, ".recipe")
    same_recipe = made_with.is_file() and made_with.read_text() == recipe()
    before = load_skipped(SKIPPED) if same_recipe else {}
    counts = {name: {"kept": 0, "no face": 0, "unreadable": 0} for name in classes}
    jobs, skipped, wanted = [], {}, set()
    for name in classes:
        folder = Path(RAW_DIR, name)
        photos = reading.list_photos(folder)
        for photo, target in zip(photos, targets(photos, folder, FACES_DIR), strict=True):
            wanted.add(target)
            try:
                time = photo.stat().st_mtime_ns
                old = before.get(photo.as_posix())
                if old and old[0] == str(time):
                    counts[name][old[2]] += 1
                    skipped[photo.as_posix()] = old
                elif same_recipe and target.is_file() and target.stat().st_mtime_ns == time:
                    counts[name]["kept"] += 1
                else:
                    jobs.append((photo, time, target))
            except OSError as error:
                counts[name]["unreadable"] += 1
                skipped[photo.as_posix()] = ("", recipe(), "unreadable", f"unreadable ({error.strerror})")
    unchanged = sum(sum(c.values()) for c in counts.values())
    # A crop whose photo is gone or gives no face any more would otherwise stay in the data for ever.
    found = Path(FACES_DIR).glob("*/*.jpg") if Path(FACES_DIR).is_dir() else ()
    old_crops = {crop for crop in found if not crop.name.startswith(".")} - wanted
    for crop in old_crops:
        crop.unlink(missing_ok=True)
    if not same_recipe:
        made_with.unlink(missing_ok=True)
        if Path(FACES_DIR).is_dir():
            for crop in wanted:
                crop.unlink(missing_ok=True)
        with atomic(made_with) as temporary:
            temporary.write_text(recipe())
    for name in classes:
        Path(FACES_DIR, name).mkdir(parents=True, exist_ok=True)
        sweep(Path(FACES_DIR, name))
    print(f"{len(jobs)} photos to crop, {unchanged} unchanged, {len(old_crops)} old crops removed, "
          f"{WORKERS or os.cpu_count()} processes")
    try:
        for (photo, time, target), (status, reason) in crop_all(jobs):
            counts[photo.relative_to(RAW_DIR).parts[0]][status] += 1
            if status != "kept":
                target.unlink(missing_ok=True)
                skipped[photo.as_posix()] = (str(time), recipe(), status, reason)
    finally:
        with atomic(SKIPPED) as temporary, open(temporary, "w", newline="", **SKIPPED_TEXT) as file:
            rows = csv.writer(file)
            rows.writerow(["photo", "time", "recipe", "status", "reason"])
            rows.writerows([photo, *row] for photo, row in sorted(skipped.items()))
    print(f"{'class':<16}{'kept':>8}{'no face':>9}{'unreadable':>12}")
    for name in classes:
        print(f"{name:<16}{counts[name]['kept']:>8}{counts[name]['no face']:>9}{counts[name]['unreadable']:>12}")
    kept, total = (sum(c[k] for c in counts.values() for k in keys) for keys in
                   (["kept"], ["kept", "no face", "unreadable"]))
    print(f"{kept} of {total} photos kept in {FACES_DIR} ({kept / max(1, total):.1%}); the others: {SKIPPED}")
    if not kept:
        script.fail(f"no face found in {RAW_DIR}: {FILL_RAW}")


def crop_all(jobs):
    """Yield (job, (status, reason)) for every job, from all cores, behind a progress bar."""
    if not jobs:
        return
    count = min(WORKERS or os.cpu_count() or 1, len(jobs))
    with tqdm(total=len(jobs), unit="photo", smoothing=0) as bar:
        for job, answer in zip(jobs, workers.in_processes(one_photo, jobs, count), strict=True):
            bar.update()
            yield job, answer


if __name__ == "__main__":
    script.override(globals(), fixed=set(script.constants(globals())) - {"RAW_DIR", "FACES_DIR", "SKIPPED", "WORKERS"})
    script.run(main)
