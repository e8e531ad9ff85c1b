"""Step 1: photos -> face crops.

    python processed.py        data/raw/<class>/*  ->  processed/faces/<class>/*.jpg  (224x224 RGB)

Finds the face that each photo is about (large, in the middle, clearly a face), cuts it square and upright with a
relative margin and saves it. Photos are only read. Those that give no crop are listed, with the reason, in
processed/skipped.csv. Running it again does only what is missing or has changed.
"""

from terminal import script  # isort: skip  # first, see terminal/script.py

import collections
import contextlib
import csv
import hashlib
import os
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from faces import cropping, detectors, reading
from terminal import workers
from terminal.files import atomic, is_system, normal, sweep

# ------------------------------------------------------------------------------------------------
RAW_DIR = "data/raw"  # one subfolder per class
FACES_DIR = "processed/faces"
SKIPPED = "processed/skipped.csv"
WORKERS = 0  # processes; 0: one per core

# "haar" is the paper's way, the cascade that ships with OpenCV. "yunet" finds nearly all faces that it misses: tilted,
# turned, shaded, small. Its model is fetched into weights/ once (faces/yunet.py); without it Haar remains. Used by
# test.py and realtime.py too, whatever weights they have: crops of either detector lie alike.
DETECTOR = "yunet"
CLAHE = 0.0  # clip limit of the adaptive histogram equalisation of a crop's lightness, such as 2.0; 0.0: none
# ------------------------------------------------------------------------------------------------

TIME_UNITS = (1, 100, 10**3, 10**6, 10**7, 10**9, 2 * 10**9)  # nanoseconds that disks round times of files to
SKIPPED_TEXT = {"encoding": "utf-8", "errors": "surrogateescape"}  # names of files need not be text
FILL_RAW = f"put photos into {RAW_DIR}/<class>/, or run 'python data/drawn.py' for drawn faces to try things with"


def one_photo(job):
    """Worker: (photo, its time, crop path, name of the detector) -> (status, reason): 'kept' and '', or 'no face' or
    'unreadable' and the reason.

    The crop bears its photo's time: a photo that changes is seen, and so is one replaced by an older one.
    """
    photo, time, target, detector = job
    try:
        image = reading.read_photo(photo)
        face = detectors.get(detector, strict=True).main_face(image)
        if face is None:
            return "no face", "no face found"
        cropping.write_crop(target, cropping.crop_face(image, face.box, cropping.MARGIN, CLAHE, face.roll), time)
    except reading.PhotoError as error:
        return "unreadable", str(error)
    return "kept", ""


def targets(photos, folder, faces_dir):
    """Crop path of each photo of a class: <stem>.jpg, or <whole name>.jpg where two photos share a stem.

    Names that still collide, that a disk may refuse for their length, or that are no text get a digest instead.
    """
    depth = len(folder.parts)
    names = ["__".join(p.parts[depth:]) for p in photos]
    stems = [name[:dot] if 0 < (dot := name.rfind(".")) < len(name) - 1 else name for name in names]  # as Path.stem
    alike = [normal(stem).lower() for stem in stems]
    count = collections.Counter(alike)
    names = [n if count[a] > 1 else stem for n, stem, a in zip(names, stems, alike, strict=True)]
    count = collections.Counter(normal(n).lower() for n in names)
    for i, name in enumerate(names):
        raw = os.fsencode(name)
        text = raw.decode("utf-8", "ignore")
        if count[normal(name).lower()] > 1 or len(raw) > 200 or text != name:
            # A class may have two folders, see class_folders().
            place = photos[i].parts[depth - (photos[i].parts[depth - 1] != folder.name):]
            names[i] = f"{text[:40]}-{hashlib.sha256(os.fsencode('/'.join(place))).hexdigest()[:16]}"
    return [Path(faces_dir, folder.name, f"{name}.jpg") for name in names]


def same_time(crop, photo):
    """Whether a crop's time is its photo's, in nanoseconds, as the crop's disk keeps it: exFAT counts in 2 seconds."""
    return any(crop in (photo // unit * unit, -(-photo // unit) * unit) for unit in TIME_UNITS)


def recipe(detector):
    """A short fingerprint of all that shapes a crop: change a constant, or the detector, and crops are made anew."""
    facts = (cropping.IMAGE_SIZE, cropping.MARGIN, CLAHE, *detectors.DETECTORS[detector].recipe, cropping.JPEG_QUALITY)
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:12]


def made_with():
    """Name of the detector that the crops in FACES_DIR were made with, as the recipe there says, or else DETECTOR."""
    noted = Path(FACES_DIR, ".recipe")
    known = {recipe(name): name for name in detectors.DETECTORS}
    return known.get(noted.read_text() if noted.is_file() else None, DETECTOR)


class Skipped(NamedTuple):
    """A row of skipped.csv, beside the photo's name."""

    time: str  # of the photo, nanoseconds; "" where it is not known
    recipe: str  # recipe() of that run
    status: str  # 'no face', 'unreadable' or 'no photo'
    reason: str


def load_skipped(path):
    """The rows of the last run's skipped.csv: photo -> Skipped; empty where there is none."""
    try:
        with open(path, newline="", **SKIPPED_TEXT) as file:
            return {row["photo"]: Skipped(*(row[column] for column in Skipped._fields)) for row in csv.DictReader(file)}
    except (OSError, KeyError, csv.Error):
        return {}


def times_of(folder):
    """{normal() name: time of modification in nanoseconds} of the crops in a folder, from one look at it."""
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
        return {normal(entry.name): entry.stat().st_mtime_ns for entry in entries if entry.is_file()}
    return {}


def remove_old(wanted):
    """Delete the crops whose photo is gone, and the folders of classes that are; returns the number of crops.

    They would otherwise stay in the data for ever. `wanted`: the paths of all crops there are to be.
    """
    found = Path(FACES_DIR).glob("*/*.jpg") if Path(FACES_DIR).is_dir() else ()
    gone = [path for path in found if path not in wanted and not path.name.startswith(".")]
    names = {normal(str(path)): path for path in wanted} if gone else {}
    count = 0
    for crop in gone:
        same = names.get(normal(str(crop)))
        if same is None or not same.exists() or not same.samefile(crop):  # disks of Macs list names in another form
            crop.unlink(missing_ok=True)
            count += 1
    classes = {normal(folder.name) for folder in {path.parent for path in wanted}}
    for folder in Path(FACES_DIR).iterdir() if Path(FACES_DIR).is_dir() else ():
        if folder.is_dir() and normal(folder.name) not in classes and not is_system(folder.name):
            sweep(folder)
            with contextlib.suppress(OSError):  # what is left is not ours
                folder.rmdir()
    return count


def plan(classes, detector, counts, skipped):
    """What is to be done: the jobs of one_photo(). `classes`: the photos of each.

    Adds what is unchanged to `counts` (a Counter for each class) and `skipped` (photo -> Skipped). A new recipe makes
    all crops anew.
    """
    noted, now = Path(FACES_DIR, ".recipe"), recipe(detector)
    same_recipe = noted.is_file() and noted.read_text() == now
    before = load_skipped(SKIPPED) if same_recipe else {}
    jobs, wanted = [], set()
    for name, photos in classes.items():
        made = times_of(Path(FACES_DIR, name)) if same_recipe else {}
        for photo, target in zip(photos, targets(photos, Path(RAW_DIR, name), FACES_DIR), strict=True):
            wanted.add(target)
            try:
                time = photo.stat().st_mtime_ns
                old = before.get(photo.as_posix())
                if old and old.time == str(time):
                    counts[name][old.status] += 1
                    skipped[photo.as_posix()] = old
                elif (crop := made.get(normal(target.name))) is not None and same_time(crop, time):
                    counts[name]["before"] += 1
                else:
                    jobs.append((photo, time, target, detector))
            except OSError as error:
                counts[name]["unreadable"] += 1
                skipped[photo.as_posix()] = Skipped("", now, "unreadable", f"unreadable ({error.strerror})")
    unchanged = sum(count.total() for count in counts.values())
    old_crops = remove_old(wanted)
    if not same_recipe:
        noted.unlink(missing_ok=True)
        if Path(FACES_DIR).is_dir():
            for crop in wanted:
                crop.unlink(missing_ok=True)
        with atomic(noted) as temporary:
            temporary.write_text(now)
    for name in classes:
        Path(FACES_DIR, name).mkdir(parents=True, exist_ok=True)
        sweep(Path(FACES_DIR, name))
    print(f"{len(jobs)} photos to crop, {unchanged} unchanged, {old_crops} old crops removed, "
          f"{WORKERS or os.cpu_count()} processes")
    return jobs


def report(classes, counts, others):
    """The table: what each class gave; "new" are the crops that this run made."""
    kept = {name: counts[name]["kept"] + counts[name]["before"] for name in classes}
    print(f"{'class':<16}{'kept':>8}{'no face':>9}{'unreadable':>12}{'new':>9}")
    for name in classes:
        print(f"{name:<16}{kept[name]:>8}{counts[name]['no face']:>9}{counts[name]['unreadable']:>12}"
              f"{counts[name]['kept']:>9}")
    kept = sum(kept.values())
    total = kept + sum(counts[name][column] for name in classes for column in ("no face", "unreadable"))
    print(f"{kept} of {total} photos kept in {FACES_DIR} ({kept / max(1, total):.1%}); the others: {SKIPPED}")
    if others:
        print(f"{len(others)} files are no photos, such as {others[0].as_posix()}: named there, too")
    if not kept:
        script.fail(f"no face found in {RAW_DIR}: {FILL_RAW}")


def main():
    script.check(globals(), ("WORKERS", WORKERS >= 0, "at least 0"))
    others = []
    classes = reading.class_photos(RAW_DIR, FILL_RAW, others=others)
    # Without YuNet's model, crops that it made must not be replaced by others.
    noted = Path(FACES_DIR, ".recipe")
    others_crops = noted.is_file() and noted.read_text() != recipe("haar")
    detector = detectors.get(DETECTOR, strict=others_crops).name
    counts, skipped = {name: collections.Counter() for name in classes}, {}
    jobs = plan(classes, detector, counts, skipped)
    try:
        for (photo, time, target, _), (status, reason) in crop_all(jobs):
            counts[normal(photo.relative_to(RAW_DIR).parts[0])][status] += 1
            if status != "kept":
                target.unlink(missing_ok=True)
                skipped[photo.as_posix()] = Skipped(str(time), recipe(detector), status, reason)
    finally:
        with atomic(SKIPPED) as temporary, open(temporary, "w", newline="", **SKIPPED_TEXT) as file:
            rows = csv.writer(file)
            rows.writerow(["photo", *Skipped._fields])
            rows.writerows([photo, *row] for photo, row in sorted(skipped.items()))
            rows.writerows([path.as_posix(), *Skipped("", recipe(detector), "no photo", "not an image")]
                           for path in sorted(others))
    report(classes, counts, others)


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
