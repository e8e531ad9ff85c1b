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
import re
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from faces import cropping, detectors, people, reading
from terminal import files, rules, workers
from terminal.files import RECIPE, normal

# ------------------------------------------------------------------------------------------------
RAW_DIR = "data/raw"  # one subfolder per class
FACES_DIR = "processed/faces"
SKIPPED = "processed/skipped.csv"
WORKERS = 0  # processes; 0: one per core
BACKEND = "loky"  # where they run, see joblib: "loky", this machine; "dask" or "ray", machines that share a disk

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
    """Worker: (photo, its time, crop path, name of the detector) -> (status, reason), see Skipped; 'kept' and '' where
    there is a crop. It bears its photo's time, so that a photo that changes, or is replaced by an older one, is seen.
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

    Names that still collide, that a disk may refuse for their length, that have a line break or are no text end in a
    digest instead.
    """
    depth = len(folder.parts)
    names = [normal("__".join(p.parts[depth:])) for p in photos]
    stems = [name[:dot] if 0 < (dot := name.rfind(".")) < len(name) - 1 else name for name in names]  # as Path.stem
    count = collections.Counter(stem.lower() for stem in stems)
    names = [n if count[stem.lower()] > 1 else stem for n, stem in zip(names, stems, strict=True)]
    count = collections.Counter(n.lower() for n in names)
    for i, name in enumerate(names):
        raw = os.fsencode(name)
        text = raw.decode("utf-8", "ignore")
        if count[name.lower()] > 1 or len(raw) > 200 or text != name or "\n" in name:
            # A class may have two folders, see class_folders().
            place = photos[i].parts[depth - (photos[i].parts[depth - 1] != folder.name):]
            start = text[:40].replace("\n", " ")
            names[i] = f"{start}-{people.digest('/'.join(place))}"
    return [Path(faces_dir, folder.name, f"{name}.jpg") for name in names]


def same_time(crop, photo):
    """Whether a crop's time, None where there is no crop, is its photo's: nanoseconds, as the crop's disk keeps them.

    exFAT counts in 2 seconds.
    """
    return crop is not None and any(crop in (photo // unit * unit, -(-photo // unit) * unit) for unit in TIME_UNITS)


def recipe(detector):
    """The detector's name and a short fingerprint of all that shapes a crop: where it differs, crops are made anew."""
    facts = (cropping.IMAGE_SIZE, cropping.MARGIN, CLAHE, *detectors.DETECTORS[detector].recipe, cropping.JPEG_QUALITY)
    return f"{detector} {hashlib.sha256(repr(facts).encode()).hexdigest()[:12]}"


def noted_recipe():
    """The recipe() of the crops in FACES_DIR, "" where there are none; of an old version a digest alone."""
    try:
        return Path(FACES_DIR, RECIPE).read_text("utf-8", "replace")
    except (FileNotFoundError, NotADirectoryError):
        return ""


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


def write_skipped(skipped, others, recipe):
    """Write SKIPPED: the photos that gave no crop, {photo: Skipped}, and `others`, the files that are no photos."""
    with files.atomic(SKIPPED) as temporary, open(temporary, "w", newline="", **SKIPPED_TEXT) as file:
        rows = csv.writer(file)
        rows.writerow(["photo", *Skipped._fields])
        rows.writerows([photo, *row] for photo, row in sorted(skipped.items()))
        rows.writerows([path.as_posix(), *Skipped("", recipe, "no photo", "not an image")] for path in sorted(others))


def times_of(folder):
    """{normal() name: time of modification, ns} of the crops in a folder."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as entries:
        return {normal(entry.name): entry.stat().st_mtime_ns for entry in entries if entry.is_file()}
    return {}


def plan(classes, detector, counts, skipped):
    """What is to be done: the jobs of one_photo(), and the names of all crops that are to be in FACES_DIR. Only reads.

    `classes`: the photos of each. Adds what is unchanged to `counts` (a Counter for each class) and `skipped` (photo ->
    Skipped). A new recipe makes all crops anew.
    """
    now = recipe(detector)
    same_recipe = noted_recipe() == now
    before = load_skipped(SKIPPED) if same_recipe else {}
    jobs, names = [], []
    for name, photos in classes.items():
        made = times_of(Path(FACES_DIR, name)) if same_recipe else {}
        for photo, target in zip(photos, targets(photos, Path(RAW_DIR, name), FACES_DIR), strict=True):
            old = before.get(photo.as_posix())
            try:
                time = photo.stat().st_mtime_ns
            except OSError as error:
                time, old = "", Skipped("", now, "unreadable", f"unreadable ({error.strerror})")
            if old and old.time == str(time):
                counts[name][old.status] += 1
                skipped[photo.as_posix()] = old
                continue
            names.append(f"{name}/{target.name}")
            if same_time(made.get(target.name), time):
                counts[name]["before"] += 1
            else:
                jobs.append((photo, time, target, detector))
    return jobs, names


def prepare(classes, jobs, names, detector):
    """Claim all files that are about to be written, and remove crops that are not to stay; returns how many those were.

    Only crops that the record names are removed. An old version kept no record: its crops bear the time of their photo.
    """
    same_recipe, ours = noted_recipe() == recipe(detector), []
    if not files.written(FACES_DIR) and re.fullmatch("[0-9a-f]{12}", noted_recipe()):
        made = {name: times_of(Path(FACES_DIR, name)) for name in classes}
        ours = [RECIPE, *(f"{target.parent.name}/{target.name}" for _, time, target, _ in jobs
                          if same_time(made[target.parent.name].get(target.name), time))]
    files.claim_table(SKIPPED, ("photo", *Skipped._fields), ours=True)
    files.claim(FACES_DIR, [RECIPE, *names], ours)
    crops = {name for name in files.written(FACES_DIR) if name.count("/") == 1 and name.endswith(".jpg")}
    gone = files.remove_ours(FACES_DIR, crops.difference(names))
    if not same_recipe:
        for name in names:
            Path(FACES_DIR, name).unlink(missing_ok=True)
        with files.atomic(Path(FACES_DIR, RECIPE)) as temporary:
            temporary.write_text(recipe(detector), "utf-8")
    for name in classes:
        Path(FACES_DIR, name).mkdir(exist_ok=True)
        files.sweep(Path(FACES_DIR, name))
    return gone


def report(classes, counts, others):
    """The table: what each class gave; "new" are the crops that this run made."""
    print(f"{'class':<16}{'kept':>8}{'no face':>9}{'unreadable':>12}{'new':>9}")
    for name in classes:
        count = counts[name]
        print(f"{name:<16}{count['kept'] + count['before']:>8}{count['no face']:>9}{count['unreadable']:>12}"
              f"{count['kept']:>9}")
    total = sum(count.total() for count in counts.values())
    kept = sum(count["kept"] + count["before"] for count in counts.values())
    print(f"{kept} of {total} photos kept in {FACES_DIR} ({kept / max(1, total):.1%}); the others: {SKIPPED}")
    if others:
        print(f"{len(others)} files are no photos, such as {others[0].as_posix()}: named there, too")
    if not kept:
        script.fail(f"no face found in {RAW_DIR}: {FILL_RAW}")


def check_constants():
    """End with one line if a constant is out of its range."""
    rules.check(globals(), RAW_DIR=str, FACES_DIR=str, SKIPPED=str, WORKERS=(int, 0, 10_000), BACKEND=workers.BACKENDS,
                DETECTOR=detectors.DETECTORS, CLAHE=(float, 0, 40))


def main():
    check_constants()
    others = []
    classes = reading.class_photos(RAW_DIR, FILL_RAW, others=others)
    links = {f"RAW_DIR/{path.name}": path for path in Path(RAW_DIR).iterdir() if path.is_symlink()}
    for name, place in {"RAW_DIR": RAW_DIR, **links}.items():
        files.check_apart(**{name: place}, FACES_DIR=FACES_DIR, SKIPPED=SKIPPED)
    # Without YuNet's model, crops that it made must not be replaced by others.
    detector = detectors.get(DETECTOR, strict=noted_recipe() not in ("", recipe("haar"))).name
    counts, skipped = {name: collections.Counter() for name in classes}, {}
    jobs, names = plan(classes, detector, counts, skipped)
    old_crops = prepare(classes, jobs, names, detector)
    print(f"{len(jobs)} photos to crop, {sum(count.total() for count in counts.values())} unchanged, "
          f"{old_crops} old crops removed, {WORKERS or os.cpu_count()} processes")
    without = []  # names of crops that there are not to be
    try:
        for (photo, time, target, _), (status, reason) in crop_all(jobs):
            counts[target.parent.name][status] += 1
            if status != "kept":
                without.append(f"{target.parent.name}/{target.name}")
                skipped[photo.as_posix()] = Skipped(str(time), recipe(detector), status, reason)
    finally:
        files.remove_ours(FACES_DIR, without)
        write_skipped(skipped, others, recipe(detector))
    report(classes, counts, others)


def crop_all(jobs):
    """Yield (job, (status, reason)) for every job, from all cores, behind a progress bar."""
    if not jobs:
        return
    count = min(WORKERS or os.cpu_count() or 1, len(jobs))
    # Other machines stand in other folders.
    absolute = [(photo.absolute(), time, target.absolute(), detector) for photo, time, target, detector in jobs]
    answers = workers.in_processes(one_photo, absolute, count, BACKEND)
    yield from zip(jobs, tqdm(answers, total=len(jobs), unit="photo", smoothing=0), strict=True)


if __name__ == "__main__":
    script.override(globals(), fixed=set(script.constants(globals())) - {"RAW_DIR", "FACES_DIR", "SKIPPED", "WORKERS",
                                                                         "BACKEND"})
    script.run(main)
