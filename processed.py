"""Step 1: crop the faces of photos.

    python processed.py        data/raw/<class>/*  ->  processed/faces/<class>/*.jpg  (224x224 RGB)

It detects the main face of each photo (large, in the middle, clearly a face), and saves a square, upright crop of it
with a relative margin. Photos are only read. Photos without a crop are listed, with the reason, in
processed/skipped.csv. Run again, it processes only what is missing or has changed.
"""

from terminal import script  # isort: skip  # first, so that Ctrl-C during the other imports is one line

import collections
import contextlib
import csv
import hashlib
import io
import os
import stat
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from faces import cropping, detectors, people, reading
from terminal import files, places, records, rules, stops, workers
from terminal.names import name_digest, normal
from terminal.records import RECIPE

# ------------------------------------------------------------------------------------------------
RAW_DIR = "data/raw"  # one subfolder per class
FACES_DIR = "processed/faces"
SKIPPED = "processed/skipped.csv"
WORKERS = 0  # processes; 0: one per core
BACKEND = "loky"  # joblib's backend: "loky" for this machine; "dask" or "ray" for several machines with a shared disk

# "haar" is the paper's detector, the cascade that comes with OpenCV. "yunet" finds nearly all faces that Haar misses:
# tilted, in profile, shaded, small. Its model is fetched into weights/ once (faces/yunet.py); without it, Haar is used.
# test.py and realtime.py use the same detector, with any weights, since the crops of both detectors agree.
DETECTOR = "yunet"
CLAHE = 0.0  # clip limit of the adaptive histogram equalisation of a crop's lightness, such as 2.0; 0.0: none
# ------------------------------------------------------------------------------------------------

NOTED_EVERY = 1000  # photos after which the progress is saved, in case the run is killed
UNREADABLE_NOW = "unreadable now"  # status of a photo that the next run tries again
# Header of SKIPPED. "time" has the Seen of a photo; it keeps this name, by which earlier tables are known as ours.
COLUMNS = ("photo", "time", "recipe", "status", "reason")
TEXT = {"encoding": "utf-8", "errors": "surrogateescape"}  # file names need not be valid UTF-8
FILL_RAW = f"put photos into {RAW_DIR}/<class>/, or run 'python data/drawn.py' for drawn faces to try things with"


class Seen(NamedTuple):
    """What an unchanged photo is recognised by: its state, or else its digest, since copying changes the state."""

    state: str = ""  # of state_of(); "": it must be read again
    digest: str = ""  # of digest_of()

    def text(self):
        """As in RECIPE and SKIPPED; "" for a photo of which nothing is known."""
        return f"{self.state}-{self.digest}" if any(self) else ""

    @classmethod
    def read(cls, text):
        """The Seen of a text()."""
        state, _, digest = text.rpartition("-")
        return cls(state, digest)


class Job(NamedTuple):
    """A photo to be cropped."""

    photo: Path
    state: str  # state_of() the photo
    last: Seen  # of the last run
    target: Path  # of the crop
    detector: str  # its name


def one_photo(photo, target, detector, last_digest):
    """Worker: crop a photo. Returns (status, reason, digest of the photo, which may be '').

    Status and reason: see Skipped; or 'kept' and '' if there is a crop, or 'unchanged' and '' if the digest is
    `last_digest`.
    """
    if not target.parent.is_dir():
        raise files.gone(target.parent)
    digest = digest_of(photo)
    if digest and digest == last_digest:
        return "unchanged", "", digest
    try:
        image = reading.read_photo(photo)
        face = detectors.get(detector, strict=True).main_face(image)
        if face is None:
            return "no face", "no face found", digest
        cropping.write_crop(target, cropping.crop_face(image, face.box, cropping.MARGIN, CLAHE, face.roll))
    except reading.PassingError as error:
        return UNREADABLE_NOW, str(error), ""
    except reading.PhotoError as error:
        return "unreadable", str(error), digest
    return "kept", "", digest


def state_of(photo):
    """The mtime, size, inode and ctime of a photo, as one text. The mtime alone is not enough, since archives may give
    all files the same."""
    status = os.stat(photo)
    return f"{status.st_mtime_ns}-{status.st_size}-{status.st_ino}-{status.st_ctime_ns}"


def digest_of(photo):
    """A digest of a photo's bytes; "" if they cannot be read, or the file is too large for a photo."""
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
    """The crop path of each of `photos`, in or below the class folder `folder`: <stem>.jpg, or <whole name>.jpg if two
    photos share a stem. List of Paths in `faces_dir`.

    A name ends in a digest if it still collides, is too long for some disks, has a line break or is not valid text.
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
            # A class may have two folders, see class_folders(): the other folder's name in front makes a path unique.
            within_class = photo.parts[depth - 1] == folder.name
            path = photo.parts[depth:] if within_class else photo.parts[depth - 1:]
            start = text[:40].replace("\n", " ")
            name = f"{start}-{name_digest('/'.join(path))}"
        crops.append(Path(faces_dir, folder.name, f"{name}.jpg"))
    return crops


def crop_name(target):
    """The name of a crop, "class/file", as in records. `target`: its Path."""
    return f"{target.parent.name}/{target.name}"


def recipe(detector):
    """The detector's name and a fingerprint of all settings that change crops: if it differs, crops are made again."""
    settings = (cropping.IMAGE_SIZE, cropping.MARGIN, CLAHE, *detectors.DETECTORS[detector].recipe,
                cropping.JPEG_QUALITY)
    return f"{detector} {hashlib.sha256(repr(settings).encode()).hexdigest()[:12]}"


class Skipped(NamedTuple):
    """A row of skipped.csv, without the photo's name."""

    seen: Seen  # Seen() if the photo must be tried again
    recipe: str  # recipe() of that run
    status: str  # 'no face', 'unreadable', UNREADABLE_NOW or 'no photo'
    reason: str


class Notes(NamedTuple):
    """What a run knows of its photos, for the next one. A photo that cannot be read any more may be in `skipped` while
    its old crop is in `crops`."""

    recipe: str  # recipe() of the crops; "" if there are none
    crops: dict  # {crop_name(): the Seen of its photo}
    skipped: dict  # {photo: Skipped}


def read_notes():
    """The Notes of the last run, from RECIPE and SKIPPED, without the skipped photos that must be tried again."""
    made_by, crops = read_crop_notes(FACES_DIR)
    # SKIPPED may be of a run with another detector and another FACES_DIR.
    skipped = {photo: row for photo, row in read_skipped().items() if row.recipe == made_by}
    return Notes(made_by, crops, skipped)


def read_crop_notes(folder):
    """(recipe, crops), as in Notes, from RECIPE in `folder`; ("", {}) without a file."""
    data = files.read_bytes(Path(folder, RECIPE)) or b""
    made_by, *lines = data.decode(**TEXT).replace(os.linesep, "\n").split("\n")
    crops = {}
    for line in lines:
        text, _, name = line.partition(" ")
        crops[name] = Seen.read(text)
    return made_by, crops


def read_skipped():
    """{photo: Skipped} of the photos in SKIPPED that need not be tried again; {} without a file, or if it is damaged.
    """
    data = files.read_bytes(SKIPPED) or b""
    skipped = {}
    try:
        for row in csv.DictReader(io.StringIO(data.decode(**TEXT), newline="")):
            if row["time"]:
                seen = Seen.read(row["time"])
                skipped[row["photo"]] = Skipped(seen, row["recipe"], row["status"], row["reason"])
    except (KeyError, csv.Error):
        return {}
    return skipped


def write_crop_notes(notes):
    """Write RECIPE, which read_crop_notes() reads."""
    with files.atomic(Path(FACES_DIR, RECIPE)) as temporary:
        lines = [notes.recipe, *(f"{seen.text()} {name}" for name, seen in sorted(notes.crops.items()))]
        temporary.write_text("\n".join(lines), **TEXT)


def write_skipped(notes, others):
    """Write SKIPPED: the photos without a crop, and `others`, the files that are not photos."""
    with files.atomic(SKIPPED) as temporary, open(temporary, "w", newline="", **TEXT) as file:
        rows = csv.writer(file)
        rows.writerow(COLUMNS)
        for photo, (seen, *more) in sorted(notes.skipped.items()):
            rows.writerow([photo, seen.text(), *more])
        for path in sorted(others):
            rows.writerow([path.as_posix(), "", notes.recipe, "no photo", "not an image"])


def crops_in(name):
    """The crop_name() of each existing crop of a class: set of str."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        # On a case-insensitive disk Hat is hat, but crops in Hat belong to another class.
        if name in map(normal, os.listdir(FACES_DIR)):
            with os.scandir(Path(FACES_DIR, name)) as entries:
                return {f"{name}/{normal(entry.name)}" for entry in entries if entry.is_file()}
    return set()


def plan(classes, detector, last):
    """(Jobs, Notes of this run, counts) before any job is done: the notes and the counts, {class:
    Counter of statuses}, are of the photos that need no work.

    Only reads. `classes`: {class: photos}; `last`: the Notes of the last run. With a new recipe(), all crops are made
    again.
    """
    notes = Notes(recipe(detector), {}, {})
    jobs, counts = [], {name: collections.Counter() for name in classes}
    same_recipe = last.recipe == notes.recipe
    if not same_recipe:
        last = Notes("", {}, {})
    for name, photos in classes.items():
        made = crops_in(name) if same_recipe else set()
        for photo, target in zip(photos, targets(photos, Path(RAW_DIR, name), FACES_DIR), strict=True):
            crop, skipped = crop_name(target), last.skipped.get(photo.as_posix())
            if skipped:
                seen = skipped.seen
            elif crop in made:
                seen = last.crops.get(crop, Seen())
            else:
                seen = Seen()
            try:
                state = state_of(photo)
            except OSError as error:  # e.g. a link to a drive that is not plugged in; a crop is kept
                counts[name][UNREADABLE_NOW] += 1
                reason = f"unreadable ({error.strerror})"
                notes.skipped[photo.as_posix()] = Skipped(Seen(), notes.recipe, UNREADABLE_NOW, reason)
                if crop in made:
                    notes.crops[crop] = last.crops.get(crop, Seen())
                continue
            if state != seen.state:
                jobs.append(Job(photo, state, seen, target, detector))
            elif skipped:
                counts[name][skipped.status] += 1
                notes.skipped[photo.as_posix()] = skipped
            else:
                counts[name]["before"] += 1
                notes.crops[crop] = seen
    return jobs, notes, counts


def prepare(classes, jobs, notes, last):
    """Claim all files that will be written, and remove crops that are not wanted any more; returns how many.

    With a new recipe(), the crops that will be made again are removed too, but not counted. Only crops that the record
    names are removed. `notes`, `last`: the Notes of plan() and of the last run.
    """
    names = {*notes.crops, *(crop_name(job.target) for job in jobs)}
    records.claim_table(SKIPPED, COLUMNS)
    records.claim(FACES_DIR, [RECIPE, *names])
    crops = {name for name in records.read_record(FACES_DIR) if name.count("/") == 1 and name.endswith(".jpg")}
    removed = records.remove_ours(FACES_DIR, crops - names)
    if last.recipe != notes.recipe:
        for name in names:
            Path(FACES_DIR, name).unlink(missing_ok=True)
    write_crop_notes(notes)  # before the work, without the crops that it will replace, in case this run is killed
    for name in classes:
        Path(FACES_DIR, name).mkdir(exist_ok=True)
    return removed


def add_result(job, result, last, notes, counts):
    """Add the result of one_photo() for a job to the Notes of this run, `notes`, and to `counts`. `last`: the Notes of
    the last run."""
    photo, crop = job.photo.as_posix(), crop_name(job.target)
    status, reason, digest = result
    old = last.skipped.get(photo)
    if status == "unchanged":
        status, reason = (old.status, old.reason) if old else ("before", "")
    counts[job.target.parent.name][status] += 1
    seen = Seen(job.state, digest)
    if status in ("kept", "before"):
        notes.crops[crop] = seen
    elif status == UNREADABLE_NOW:
        notes.skipped[photo] = Skipped(Seen(), notes.recipe, status, reason)
        if job.target.is_file():  # its old crop is kept; without a state, so that the next run tries again
            notes.crops[crop] = Seen("", job.last.digest)
    else:
        notes.skipped[photo] = Skipped(seen, notes.recipe, status, reason)


def crop_photos(jobs, last, notes, counts, others):
    """Make the crops of `jobs`, and write the Notes of this run, `notes`, also if it is stopped.

    `last`, `counts`: see plan(); `others`: the files that are not photos. Returns the names of the crops that should be
    there and are not.
    """
    done = []
    try:
        with contextlib.closing(results_of(jobs)) as results:
            for number, (job, result) in enumerate(results, 1):
                add_result(job, result, last, notes, counts)
                done.append(crop_name(job.target))
                if number % NOTED_EVERY == 0:
                    write_crop_notes(notes)
    finally:
        with stops.later():
            # Old crops of photos in which no face is found any more.
            records.remove_ours(FACES_DIR, set(done).difference(notes.crops))
            write_skipped(notes, others)
            write_crop_notes(notes)
    made = set().union(*map(crops_in, counts))
    return [name for name in sorted(notes.crops.keys() - made) if not Path(FACES_DIR, name).is_file()]


def process_count(jobs):
    """The number of processes for `jobs`."""
    return min(WORKERS or workers.cores(), len(jobs))


def results_of(jobs):
    """Yield (job, result of one_photo()) for each job, using all cores, with a progress bar."""
    if not jobs:
        return
    # Absolute paths, since workers on other machines have other working folders.
    arguments = [(job.photo.absolute(), job.target.absolute(), job.detector, job.last.digest) for job in jobs]
    with contextlib.closing(workers.in_processes(one_photo, arguments, process_count(jobs), BACKEND)) as results:
        yield from zip(jobs, tqdm(results, total=len(jobs), unit="photo", smoothing=0), strict=True)


def print_counts(classes, counts, others):
    """Print a table of the photos of each class by result; "new": crops made by this run. Ends the program if no photo
    has a crop."""
    print(f"{'class':<16}{'kept':>8}{'no face':>9}{'unreadable':>12}{'new':>9}")
    for name in classes:
        count = counts[name]
        unreadable = count["unreadable"] + count[UNREADABLE_NOW]
        print(f"{name:<16}{count['kept'] + count['before']:>8}{count['no face']:>9}{unreadable:>12}"
              f"{count['kept']:>9}")
    total = sum(count.total() for count in counts.values())
    kept = sum(count["kept"] + count["before"] for count in counts.values())
    print(f"{kept} of {total} photos kept in {FACES_DIR} ({kept / max(1, total):.1%}); the others: {SKIPPED}")
    if others:
        print(f"{len(others)} files are not photos, such as {others[0].as_posix()}: they are listed there, too")
    if not kept:
        script.fail(f"no face found in {RAW_DIR}: {FILL_RAW}")


RULES = dict(RAW_DIR=str, FACES_DIR=str, SKIPPED=rules.ends_in(".csv"), WORKERS=(int, 0, 10_000),
             BACKEND=workers.BACKENDS, DETECTOR=detectors.DETECTORS, CLAHE=(float, 0, 40))


def main():
    """Crop the photos in RAW_DIR that are new or have changed into FACES_DIR."""
    rules.check(globals())
    others = []
    classes = reading.class_photos(RAW_DIR, FILL_RAW, others=others)
    places.check_outputs(globals(), "FACES_DIR")
    places.check_classes_apart("RAW_DIR", RAW_DIR, FACES_DIR=FACES_DIR, SKIPPED=SKIPPED)
    last = read_notes()
    # If YuNet's model is missing, YuNet's crops must not be replaced by Haar's.
    detector = detectors.get(DETECTOR, strict=last.recipe not in ("", recipe("haar"))).name
    jobs, notes, counts = plan(classes, detector, last)
    old_crops = prepare(classes, jobs, notes, last)
    print(f"{len(jobs)} photos to crop, {sum(count.total() for count in counts.values())} unchanged, "
          f"{old_crops} old crops removed, {process_count(jobs)} processes")
    missing = crop_photos(jobs, last, notes, counts, others)
    if missing:
        script.fail(f"{len(missing)} crops are gone from {FACES_DIR}, such as {missing[0]}: was its drive taken away, "
                    "or were they deleted? Run the same command again")
    print_counts(classes, counts, others)


if __name__ == "__main__":
    rules.override(globals(), fixed=("DETECTOR", "CLAHE"))
    script.run(main)
