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

from faces import cropping, detectors, people, reading
from terminal import files, rules, stops, workers
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
TEXT = {"encoding": "utf-8", "errors": "surrogateescape"}  # names of files need not be text
FILL_RAW = f"put photos into {RAW_DIR}/<class>/, or run 'python data/drawn.py' for drawn faces to try things with"


def one_photo(job):
    """Worker: (photo, its time, crop path, name of the detector) -> (status, reason), see Skipped; 'kept' and '' where
    there is a crop. It bears its photo's time, so that a photo that changes, or is replaced by an older one, is seen.
    """
    photo, time, target, detector = job
    if not target.parent.is_dir():
        raise files.gone(target.parent)
    try:
        image = reading.read_photo(photo)
        face = detectors.get(detector, strict=True).main_face(image)
        if face is None:
            return "no face", "no face found"
        cropping.write_crop(target, cropping.crop_face(image, face.box, cropping.MARGIN, CLAHE, face.roll), time)
    except reading.PassingError as error:
        return "unreadable now", str(error)
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


def noted(folder=None):
    """What RECIPE says of the crops in `folder`, None: FACES_DIR: (their recipe(), "" where there are none; {name of a
    crop: time of its photo, ns} of those that could not be given it)."""
    try:
        first, *lines = Path(folder or FACES_DIR, RECIPE).read_text(**TEXT).split("\n")
    except (FileNotFoundError, NotADirectoryError):
        return "", {}
    times = (line.partition(" ") for line in lines)
    return first, {name: int(time) for time, _, name in times if time.isdecimal()}


def write_noted(recipe, times):
    """Write RECIPE, from which noted() reads."""
    with files.atomic(Path(FACES_DIR, RECIPE)) as temporary:
        temporary.write_text("\n".join([recipe, *(f"{time} {name}" for name, time in sorted(times.items()))]), **TEXT)


class Skipped(NamedTuple):
    """A row of skipped.csv, beside the photo's name."""

    time: str  # of the photo, nanoseconds; "" where it is not known, or the photo is to be tried again
    recipe: str  # recipe() of that run
    status: str  # 'no face', 'unreadable', 'unreadable now' or 'no photo'
    reason: str


def load_skipped(path):
    """The rows of the last run's skipped.csv: photo -> Skipped; empty where there is none."""
    try:
        with open(path, newline="", **TEXT) as file:
            return {row["photo"]: Skipped(*(row[column] for column in Skipped._fields)) for row in csv.DictReader(file)}
    except (OSError, KeyError, csv.Error):
        return {}


def write_skipped(skipped, others, recipe):
    """Write SKIPPED: the photos that gave no crop, {photo: Skipped}, and `others`, the files that are no photos."""
    with files.atomic(SKIPPED) as temporary, open(temporary, "w", newline="", **TEXT) as file:
        rows = csv.writer(file)
        rows.writerow(["photo", *Skipped._fields])
        rows.writerows([photo, *row] for photo, row in sorted(skipped.items()))
        rows.writerows([path.as_posix(), *Skipped("", recipe, "no photo", "not an image")] for path in sorted(others))


def times_of(name):
    """{name: time of modification, ns} of the crops of a class; names are those of records, "class/file"."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        # Some disks take Hat for hat: but crops in Hat are those of another class.
        if name in map(normal, os.listdir(FACES_DIR)):
            with os.scandir(Path(FACES_DIR, name)) as entries:
                return {f"{name}/{normal(entry.name)}": entry.stat().st_mtime_ns for entry in entries
                        if entry.is_file()}
    return {}


def plan(classes, detector, counts, skipped):
    """What is to be done: the jobs of one_photo(), and the names of all crops that are to be in FACES_DIR. Only reads.

    `classes`: the photos of each. Adds what is unchanged to `counts` (a Counter for each class) and `skipped` (photo ->
    Skipped). A new recipe makes all crops anew.
    """
    now, (noted_recipe, noted_times) = recipe(detector), noted()
    same_recipe = noted_recipe == now
    before = load_skipped(SKIPPED) if same_recipe else {}
    jobs, names = [], []
    for name, photos in classes.items():
        made = times_of(name) if same_recipe else {}
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
            crop = f"{name}/{target.name}"
            names.append(crop)
            if same_time(made.get(crop), time) or crop in made and noted_times.get(crop) == time:
                counts[name]["before"] += 1
            else:
                jobs.append((photo, time, target, detector))
    return jobs, names


def prepare(classes, jobs, names, detector):
    """Claim all files that are about to be written, and remove crops that are not to stay; returns how many those were.

    Only crops that the record names are removed.
    """
    before = noted()[0]
    files.claim_table(SKIPPED, ("photo", *Skipped._fields), ours=True)
    files.claim(FACES_DIR, [RECIPE, *names])
    crops = {name for name in files.read_record(FACES_DIR) if name.count("/") == 1 and name.endswith(".jpg")}
    gone = files.remove_ours(FACES_DIR, crops.difference(names))
    if before != recipe(detector):
        for name in names:
            Path(FACES_DIR, name).unlink(missing_ok=True)
        write_noted(recipe(detector), {})
    for name in classes:
        Path(FACES_DIR, name).mkdir(exist_ok=True)
    return gone


def crop_of(job):
    """The name of the crop that a job of one_photo() makes, as records have it."""
    return f"{job[2].parent.name}/{job[2].name}"


def made_of(classes):
    """times_of() all classes."""
    return {crop: time for name in classes for crop, time in times_of(name).items()}


def note_times(classes, jobs, names):
    """Write down the times of the photos of those of `jobs` whose crops do not bear them: some disks refuse that.

    Returns the `names` of crops that are not there.
    """
    made, (noted_recipe, before) = made_of(classes), noted()
    times = {name: time for name, time in before.items() if name in names}
    for job in jobs:
        name, time = crop_of(job), job[1]
        times.pop(name, None)
        if name in made and not same_time(made[name], time):
            times[name] = time
    if times != before:
        write_noted(noted_recipe, times)
    return [name for name in sorted(names - made.keys()) if not Path(FACES_DIR, name).is_file()]


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
    detector = detectors.get(DETECTOR, strict=noted()[0] not in ("", recipe("haar"))).name
    counts, skipped = {name: collections.Counter() for name in classes}, {}
    jobs, names = plan(classes, detector, counts, skipped)
    old_crops = prepare(classes, jobs, names, detector)
    print(f"{len(jobs)} photos to crop, {sum(count.total() for count in counts.values())} unchanged, "
          f"{old_crops} old crops removed, {WORKERS or workers.cores()} processes")
    kept, without = [], []  # jobs of this run that gave a crop; names of crops that there are not to be
    try:
        with contextlib.closing(crop_all(jobs)) as done:
            for job, (status, reason) in done:
                photo, time, target, _ = job
                counts[target.parent.name][status.removesuffix(" now")] += 1
                if status == "kept":
                    kept.append(job)
                else:
                    without.append(crop_of(job))
                    known = "" if status == "unreadable now" else str(time)  # what may pass is tried again
                    skipped[photo.as_posix()] = Skipped(known, recipe(detector), status, reason)
    finally:
        with stops.later():
            files.remove_ours(FACES_DIR, without)
            gone = note_times(classes, kept, set(names).difference(without))
            write_skipped(skipped, others, recipe(detector))
    if gone:
        script.fail(f"{len(gone)} crops are gone from {FACES_DIR}, such as {gone[0]}: was its drive taken away, or "
                    "were they deleted? Run the same command again")
    report(classes, counts, others)


def crop_all(jobs):
    """Yield (job, (status, reason)) for every job, from all cores, behind a progress bar."""
    if not jobs:
        return
    count = min(WORKERS or workers.cores(), len(jobs))
    # Other machines stand in other folders.
    absolute = [(photo.absolute(), time, target.absolute(), detector) for photo, time, target, detector in jobs]
    with contextlib.closing(workers.in_processes(one_photo, absolute, count, BACKEND)) as answers:
        yield from zip(jobs, tqdm(answers, total=len(jobs), unit="photo", smoothing=0), strict=True)


if __name__ == "__main__":
    script.override(globals(), fixed=set(script.constants(globals())) - {"RAW_DIR", "FACES_DIR", "SKIPPED", "WORKERS",
                                                                         "BACKEND"})
    script.run(main)
