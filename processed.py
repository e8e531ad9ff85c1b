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
import stat
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

NOTED_EVERY = 1000  # photos after which it is written down what was done, for a run that is killed
TEXT = {"encoding": "utf-8", "errors": "surrogateescape"}  # names of files need not be text
FILL_RAW = f"put photos into {RAW_DIR}/<class>/, or run 'python data/drawn.py' for drawn faces to try things with"


def one_photo(job):
    """Worker: (photo, its seen_now(), what is known of it, crop path, name of the detector) -> (status, reason, digest
    of the photo); status and reason: see Skipped, 'kept' and '' where there is a crop, 'unchanged' where the photo is
    known by its digest.
    """
    photo, _, known, target, detector = job
    if not target.parent.is_dir():
        raise files.gone(target.parent)
    digest = digest_of(photo)
    if digest and digest == known.rpartition("-")[2]:
        return "unchanged", "", digest
    try:
        image = reading.read_photo(photo)
        face = detectors.get(detector, strict=True).main_face(image)
        if face is None:
            return "no face", "no face found", digest
        cropping.write_crop(target, cropping.crop_face(image, face.box, cropping.MARGIN, CLAHE, face.roll))
    except reading.PassingError as error:
        return "unreadable now", str(error), ""
    except reading.PhotoError as error:
        return "unreadable", str(error), digest
    return "kept", "", digest


def seen_now(photo):
    """How a photo is known again: text of its time, size, number on the disk and time of its last change of any kind,
    since archives give all files one time. Where it differs, digest_of() decides, which is noted behind it."""
    status = os.stat(photo)
    return f"{status.st_mtime_ns}-{status.st_size}-{status.st_ino}-{status.st_ctime_ns}"


def digest_of(photo):
    """A digest of a photo's bytes; "" where they cannot be read, or are more than photos have."""
    digest = hashlib.blake2b(digest_size=12)
    with contextlib.suppress(OSError):
        status = os.stat(photo)
        if stat.S_ISREG(status.st_mode) and status.st_size <= reading.MAX_MENDED:
            with open(photo, "rb") as file:
                while data := file.read(2**20):
                    digest.update(data)
            return digest.hexdigest()
    return ""


def targets(photos, folder, faces_dir):
    """Crop path of each photo of a class: <stem>.jpg, or <whole name>.jpg where two photos share a stem.

    Names that still collide, that a disk may refuse for their length, that have a line break or are no text end in a
    digest instead.
    """
    depth = len(folder.parts)
    whole = [normal("__".join(photo.parts[depth:])) for photo in photos]
    stems = [people.stem(name) for name in whole]
    stem_count = collections.Counter(stem.lower() for stem in stems)
    names = [name if stem_count[stem.lower()] > 1 else stem for name, stem in zip(whole, stems, strict=True)]
    count = collections.Counter(name.lower() for name in names)
    crops = []
    for photo, name in zip(photos, names, strict=True):
        raw = os.fsencode(name)
        text = raw.decode("utf-8", "ignore")
        if count[name.lower()] > 1 or len(raw) > 200 or text != name or "\n" in name:
            # A class may have two folders, see class_folders(): with the other one's name before it, a path is unique.
            within_class = photo.parts[depth - 1] == folder.name
            path = photo.parts[depth:] if within_class else photo.parts[depth - 1:]
            start = text[:40].replace("\n", " ")
            name = f"{start}-{people.digest('/'.join(path))}"
        crops.append(Path(faces_dir, folder.name, f"{name}.jpg"))
    return crops


def recipe(detector):
    """The detector's name and a short fingerprint of all that shapes a crop: where it differs, crops are made anew."""
    facts = (cropping.IMAGE_SIZE, cropping.MARGIN, CLAHE, *detectors.DETECTORS[detector].recipe, cropping.JPEG_QUALITY)
    return f"{detector} {hashlib.sha256(repr(facts).encode()).hexdigest()[:12]}"


def noted(folder=None):
    """What RECIPE says of the crops in `folder`, None: FACES_DIR: (their recipe(), "" where there are none; {name of a
    crop: its photo as it was, which is seen_now(), "-" and digest_of()})."""
    try:
        first, *lines = Path(folder or FACES_DIR, RECIPE).read_text(**TEXT).split("\n")
    except (FileNotFoundError, NotADirectoryError):
        return "", {}
    return first, {name: seen for seen, _, name in (line.partition(" ") for line in lines)}


def write_noted(recipe, seen):
    """Write RECIPE, from which noted() reads."""
    with files.atomic(Path(FACES_DIR, RECIPE)) as temporary:
        temporary.write_text("\n".join([recipe, *(f"{value} {name}" for name, value in sorted(seen.items()))]), **TEXT)


class Skipped(NamedTuple):
    """A row of skipped.csv, beside the photo's name."""

    time: str  # the photo as it was, as noted() has it; "" where it is to be tried again
    recipe: str  # recipe() of that run
    status: str  # 'no face', 'unreadable', 'unreadable now' or 'no photo'
    reason: str


def load_skipped(path):
    """The rows of the last run's skipped.csv that are not to be tried again: photo -> Skipped; empty where there is
    none."""
    try:
        with open(path, newline="", **TEXT) as file:
            return {row["photo"]: Skipped(*(row[column] for column in Skipped._fields)) for row in csv.DictReader(file)
                    if row["time"]}
    except (OSError, KeyError, csv.Error):
        return {}


def write_skipped(skipped, others, recipe):
    """Write SKIPPED: the photos that gave no crop, {photo: Skipped}, and `others`, the files that are no photos."""
    with files.atomic(SKIPPED) as temporary, open(temporary, "w", newline="", **TEXT) as file:
        rows = csv.writer(file)
        rows.writerow(["photo", *Skipped._fields])
        rows.writerows([photo, *row] for photo, row in sorted(skipped.items()))
        rows.writerows([path.as_posix(), *Skipped("", recipe, "no photo", "not an image")] for path in sorted(others))


def crops_in(name):
    """The names of the crops of a class that are there, "class/file" as in records: set of str."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        # Some disks take Hat for hat: but crops in Hat are those of another class.
        if name in map(normal, os.listdir(FACES_DIR)):
            with os.scandir(Path(FACES_DIR, name)) as entries:
                return {f"{name}/{normal(entry.name)}" for entry in entries if entry.is_file()}
    return set()


def plan(classes, detector, before, counts, skipped):
    """What is to be done: the jobs of one_photo(), and the names of all crops that are to be in FACES_DIR. Only reads.

    `classes`: the photos of each; `before`: of load_skipped(). Adds what is unchanged to `counts` (a Counter for each
    class) and `skipped` (photo -> Skipped). A new recipe makes all crops anew.
    """
    now, (noted_recipe, seen) = recipe(detector), noted()
    same_recipe = noted_recipe == now
    jobs, names = [], []
    for name, photos in classes.items():
        made = crops_in(name) if same_recipe else set()
        for photo, target in zip(photos, targets(photos, Path(RAW_DIR, name), FACES_DIR), strict=True):
            crop, old = f"{name}/{target.name}", before.get(photo.as_posix()) if same_recipe else None
            known = old.time if old else seen.get(crop, "") if crop in made else ""
            try:
                found = seen_now(photo)
            except OSError as error:  # as where it is a link to a drive that is not there: a crop stays
                counts[name]["unreadable"] += 1
                skipped[photo.as_posix()] = Skipped("", now, "unreadable now", f"unreadable ({error.strerror})")
                if crop in made:
                    names.append(crop)
                continue
            if known.rpartition("-")[0] != found:
                jobs.append((photo, found, known, target, detector))
            elif old:
                counts[name][old.status] += 1
                skipped[photo.as_posix()] = old
                continue
            else:
                counts[name]["before"] += 1
            names.append(crop)
    return jobs, names


def prepare(classes, jobs, names, detector):
    """Claim all files that are about to be written, and remove crops that are not to stay; returns how many those were.

    Only crops that the record names are removed.
    """
    files.claim_table(SKIPPED, ("photo", *Skipped._fields), ours=True)
    files.claim(FACES_DIR, [RECIPE, *names])
    crops = {name for name in files.read_record(FACES_DIR) if name.count("/") == 1 and name.endswith(".jpg")}
    gone = files.remove_ours(FACES_DIR, crops.difference(names))
    before, seen = noted()
    if before != recipe(detector):
        for name in names:
            Path(FACES_DIR, name).unlink(missing_ok=True)
    # What is about to be replaced is not known any more, should this run be killed.
    unchanged = set(names).difference(map(crop_of, jobs))
    write_noted(recipe(detector), {name: value for name, value in seen.items() if name in unchanged})
    for name in classes:
        Path(FACES_DIR, name).mkdir(exist_ok=True)
    return gone


def crop_of(job):
    """The name of the crop that a job of one_photo() makes, as records have it."""
    target = job[3]
    return f"{target.parent.name}/{target.name}"


def take(job, answer, before, counts, skipped, seen):
    """Take the answer of one_photo() to a job into `counts` and `skipped`, see plan(), and `seen`, see noted(). Returns
    whether there is to be a crop."""
    photo, found, known, target, detector = job
    status, reason, digest = answer
    passing, old = status == "unreadable now", before.get(photo.as_posix())
    if status == "unchanged":
        status, reason = (old.status, old.reason) if old else ("before", "")
    counts[target.parent.name][status.removesuffix(" now")] += 1
    if status in ("kept", "before"):
        seen[crop_of(job)] = f"{found}-{digest}"
        return True
    time = "" if passing else f"{found}-{digest}"
    skipped[photo.as_posix()] = Skipped(time, recipe(detector), status, reason)
    if passing and target.is_file():  # no crop goes for a photo that cannot be read now
        seen[crop_of(job)] = f"-{known.rpartition('-')[2]}"
        return True
    return False


def print_counts(classes, counts, others):
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
    files.check_outputs(globals(), "FACES_DIR")
    links = {f"RAW_DIR/{path.name}": path for path in Path(RAW_DIR).iterdir() if path.is_symlink()}
    for name, place in {"RAW_DIR": RAW_DIR, **links}.items():
        files.check_apart(**{name: place}, FACES_DIR=FACES_DIR, SKIPPED=SKIPPED)
    # Without YuNet's model, crops that it made must not be replaced by others.
    detector = detectors.get(DETECTOR, strict=noted()[0] not in ("", recipe("haar"))).name
    counts, skipped = {name: collections.Counter() for name in classes}, {}
    before = load_skipped(SKIPPED)
    jobs, names = plan(classes, detector, before, counts, skipped)
    old_crops = prepare(classes, jobs, names, detector)
    print(f"{len(jobs)} photos to crop, {sum(count.total() for count in counts.values())} unchanged, "
          f"{old_crops} old crops removed, {WORKERS or workers.cores()} processes")
    seen, without = noted()[1], []  # names of crops that there are not to be
    try:
        with contextlib.closing(crop_all(jobs)) as done:
            for number, (job, answer) in enumerate(done, 1):
                if not take(job, answer, before, counts, skipped, seen):
                    without.append(crop_of(job))
                if number % NOTED_EVERY == 0:
                    write_noted(recipe(detector), seen)
    finally:
        with stops.later():
            files.remove_ours(FACES_DIR, without)
            write_skipped(skipped, others, recipe(detector))
            write_noted(recipe(detector), seen)
            made = set().union(*map(crops_in, classes))
    wanted = set(names).difference(without)
    gone = [name for name in sorted(wanted - made) if not Path(FACES_DIR, name).is_file()]
    if gone:
        script.fail(f"{len(gone)} crops are gone from {FACES_DIR}, such as {gone[0]}: was its drive taken away, or "
                    "were they deleted? Run the same command again")
    print_counts(classes, counts, others)


def crop_all(jobs):
    """Yield (job, (status, reason)) for every job, from all cores, behind a progress bar."""
    if not jobs:
        return
    count = min(WORKERS or workers.cores(), len(jobs))
    # Other machines stand in other folders.
    absolute = [(photo.absolute(), *known, target.absolute(), detector) for photo, *known, target, detector in jobs]
    with contextlib.closing(workers.in_processes(one_photo, absolute, count, BACKEND)) as answers:
        yield from zip(jobs, tqdm(answers, total=len(jobs), unit="photo", smoothing=0), strict=True)


if __name__ == "__main__":
    script.override(globals(), fixed=set(script.constants(globals())) - {"RAW_DIR", "FACES_DIR", "SKIPPED", "WORKERS",
                                                                         "BACKEND"})
    script.run(main)
