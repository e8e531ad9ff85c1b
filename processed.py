"""Step 1: photos -> face crops.

    python processed.py        data/raw/<class>/*  ->  processed/faces/<class>/*.jpg  (224x224 RGB)

Finds the face that each photo is about (large, in the middle, clearly a face) with the Haar cascade that ships with
OpenCV, cuts it square with a relative margin and saves it. Photos are only read. Photos that give no crop are listed,
with the reason, in processed/skipped.csv. Running it again does only what is missing or has changed.
"""

from terminal import script  # isort: skip  # first, see terminal/script.py

import collections
import contextlib
import csv
import hashlib
import os
from pathlib import Path

from tqdm import tqdm

from faces import cutting, finding, reading
from terminal import workers
from terminal.files import atomic, is_system, normal, sweep

# ------------------------------------------------------------------------------------------------
RAW_DIR = "data/raw"  # one subfolder a class
FACES_DIR = "processed/faces"
SKIPPED = "processed/skipped.csv"
WORKERS = 0  # processes; 0: one a core

IMAGE_SIZE = 224  # pixels a side of a crop, the paper's
MARGIN = 0.20  # added on each side of the Haar box, as a share of the box; chin and hair tell a lot
CLAHE = 0.0  # clip limit of the adaptive histogram equalisation of a crop's lightness, such as 2.0; 0.0: none
# ------------------------------------------------------------------------------------------------

TIME_UNITS = (1, 100, 10**3, 10**6, 10**7, 10**9, 2 * 10**9)  # nanoseconds that disks round times of files to
SKIPPED_TEXT = {"encoding": "utf-8", "errors": "surrogateescape"}  # names of files need not be text
FILL_RAW = f"put photos into {RAW_DIR}/<class>/, or run 'python data/drawn.py' for drawn faces to try things with"


def one_photo(job):
    """Worker: (photo, its time, crop path) -> (status, reason), status one of 'kept', 'no face', 'unreadable'.

    The crop bears its photo's time: a photo that changes is seen, and so is one replaced by an older one.
    """
    photo, time, target = job
    try:
        image = reading.read_photo(photo)
        box = finding.main_face(image)
        if box is None:
            return "no face", "the cascade found no face"
        cutting.write_crop(target, cutting.crop_face(image, box, MARGIN, IMAGE_SIZE, CLAHE), time)
    except reading.PhotoError as error:
        return "unreadable", str(error)
    return "kept", ""


def targets(photos, folder, faces_dir):
    """Crop path of each photo of a class: <stem>.jpg, or <whole name>.jpg where two photos share a stem.

    Names that still collide, that a disk may refuse for their length, or that are no text get a digest instead.
    """
    places = [p.relative_to(folder.parent) for p in photos]  # a class may have two folders, see class_folders()
    relative = [Path(*p.parts[1:]) if p.parts[0] == folder.name else p for p in places]
    names = ["__".join(p.parts[1:]) for p in places]
    count = collections.Counter(normal(Path(n).stem).lower() for n in names)
    names = [n if count[normal(Path(n).stem).lower()] > 1 else Path(n).stem for n in names]
    count = collections.Counter(normal(n).lower() for n in names)
    for i, name in enumerate(names):
        raw = os.fsencode(name)
        text = raw.decode("utf-8", "ignore")
        if count[normal(name).lower()] > 1 or len(raw) > 200 or text != name:
            names[i] = f"{text[:40]}-{hashlib.sha256(os.fsencode(relative[i].as_posix())).hexdigest()[:16]}"
    return [Path(faces_dir, folder.name, f"{name}.jpg") for name in names]


def same_time(crop, photo):
    """Whether a crop's time is its photo's, in nanoseconds, as the crop's disk keeps it: exFAT counts in 2 seconds."""
    return any(crop in (photo // unit * unit, -(-photo // unit) * unit) for unit in TIME_UNITS)


def recipe():
    """A short fingerprint of everything that shapes a crop: change one of these constants and crops are made anew."""
    facts = (IMAGE_SIZE, MARGIN, CLAHE, finding.BORDER, finding.PASSES, finding.OFF_CENTRE, finding.FAR,
             finding.LONGEST_SIDE, finding.SHORTEST_SIDE, cutting.JPEG_QUALITY)
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:12]


def load_skipped(path):
    """The rows of the last run's skipped.csv: photo -> (time, recipe, status, reason); empty where there is none."""
    try:
        with open(path, newline="", **SKIPPED_TEXT) as file:
            return {row["photo"]: (row["time"], row["recipe"], row["status"], row["reason"])
                    for row in csv.DictReader(file)}
    except (OSError, KeyError, csv.Error):
        return {}


def remove_old(wanted):
    """Delete the crops whose photo is gone, and the folders of classes that are; returns the number of crops.

    They would otherwise stay in the data for ever. `wanted`: the paths of all crops there are to be.
    """
    found = Path(FACES_DIR).glob("*/*.jpg") if Path(FACES_DIR).is_dir() else ()
    names = {normal(str(path)): path for path in wanted}
    count = 0
    for crop in {path for path in found if not path.name.startswith(".")} - wanted:
        same = names.get(normal(str(crop)))
        if same is None or not same.exists() or not same.samefile(crop):  # disks of Macs list names in another form
            crop.unlink(missing_ok=True)
            count += 1
    classes = {normal(path.parent.name) for path in wanted}
    for folder in Path(FACES_DIR).iterdir() if Path(FACES_DIR).is_dir() else ():
        if folder.is_dir() and normal(folder.name) not in classes and not is_system(folder.name):
            sweep(folder)
            with contextlib.suppress(OSError):  # what is left is not ours
                folder.rmdir()
    return count


def main():
    script.check(globals(), ("WORKERS", WORKERS >= 0, "at least 0"))
    others = []
    classes = reading.class_photos(RAW_DIR, FILL_RAW, others=others)
    made_with = Path(FACES_DIR, ".recipe")
    same_recipe = made_with.is_file() and made_with.read_text() == recipe()
    before = load_skipped(SKIPPED) if same_recipe else {}
    counts = {name: {"kept": 0, "no face": 0, "unreadable": 0} for name in classes}
    jobs, skipped, wanted = [], {}, set()
    for name, photos in classes.items():
        for photo, target in zip(photos, targets(photos, Path(RAW_DIR, name), FACES_DIR), strict=True):
            wanted.add(target)
            try:
                time = photo.stat().st_mtime_ns
                old = before.get(photo.as_posix())
                if old and old[0] == str(time):
                    counts[name][old[2]] += 1
                    skipped[photo.as_posix()] = old
                elif same_recipe and target.is_file() and same_time(target.stat().st_mtime_ns, time):
                    counts[name]["kept"] += 1
                else:
                    jobs.append((photo, time, target))
            except OSError as error:
                counts[name]["unreadable"] += 1
                skipped[photo.as_posix()] = ("", recipe(), "unreadable", f"unreadable ({error.strerror})")
    unchanged = sum(sum(c.values()) for c in counts.values())
    # A crop whose photo is gone or gives no face any more would otherwise stay in the data for ever.
    old_crops = remove_old(wanted)
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
    print(f"{len(jobs)} photos to crop, {unchanged} unchanged, {old_crops} old crops removed, "
          f"{WORKERS or os.cpu_count()} processes")
    try:
        for (photo, time, target), (status, reason) in crop_all(jobs):
            counts[normal(photo.relative_to(RAW_DIR).parts[0])][status] += 1
            if status != "kept":
                target.unlink(missing_ok=True)
                skipped[photo.as_posix()] = (str(time), recipe(), status, reason)
    finally:
        with atomic(SKIPPED) as temporary, open(temporary, "w", newline="", **SKIPPED_TEXT) as file:
            rows = csv.writer(file)
            rows.writerow(["photo", "time", "recipe", "status", "reason"])
            rows.writerows([photo, *row] for photo, row in sorted(skipped.items()))
            rows.writerows([path.as_posix(), "", recipe(), "no photo", "not an image"] for path in sorted(others))
    print(f"{'class':<16}{'kept':>8}{'no face':>9}{'unreadable':>12}")
    for name in classes:
        print(f"{name:<16}{counts[name]['kept']:>8}{counts[name]['no face']:>9}{counts[name]['unreadable']:>12}")
    kept, total = (sum(c[k] for c in counts.values() for k in keys) for keys in
                   (["kept"], ["kept", "no face", "unreadable"]))
    print(f"{kept} of {total} photos kept in {FACES_DIR} ({kept / max(1, total):.1%}); the others: {SKIPPED}")
    if others:
        print(f"{len(others)} files are no photos, such as {others[0].as_posix()}: named there, too")
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
