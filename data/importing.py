"""Shared by the importers: unpacks archives, chooses the test share by hash, and places photos by hard links.

An importer only finds the LabelledPhotos of its data set; bring_in() does the rest.
"""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
from terminal import script  # isort: skip  # first, so that Ctrl-C during the other imports is one line

# ruff: noqa: E402
import contextlib
import filecmp
import hashlib
import re
import shutil
from collections import Counter, defaultdict
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from faces import people
from terminal import files, places, records, stops
from terminal.names import is_system, name_digest, normal, safe_name

DEVICE = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # reserved on Windows
ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz")


class LabelledPhoto(NamedTuple):
    """A photo to be placed, and its labels in the data set."""

    path: Path  # in SOURCE
    side: str  # "raw" or "test"
    class_name: str
    name: str  # of the placed file
    source: str = ""
    person: str = ""
    age: str = ""
    ethnicity: str = ""


def bring_in(settings, hint, find_photos, classes):
    """Import a data set into RAW_DIR, TEST_DIR and PEOPLE.

    `settings`: the importer's globals(); `hint`: where to get the data set; `classes`: None for any.
    find_photos(root, skipped) yields the LabelledPhotos in `root`, the folder of the data set, and appends the names of
    files that it leaves out to skipped[reason].
    """
    raw_dir, test_dir, skipped = settings["RAW_DIR"], settings["TEST_DIR"], defaultdict(list)
    places.check_outputs(settings, "RAW_DIR", "TEST_DIR")
    root = source_folder(settings["SOURCE"], hint, raw_dir, test_dir)
    if classes:
        only_classes([raw_dir, test_dir], classes)
    photos = list(find_photos(root, skipped))
    print_skipped(skipped)
    place(photos, raw_dir, test_dir, settings["PEOPLE"])


def check_targets(settings, classes):
    """End the program if photos of `classes` cannot be written. `settings`: a script's globals()."""
    folders = {name: settings[name] for name in ("RAW_DIR", "TEST_DIR")}
    places.check_outputs(settings, *folders)
    places.check_apart(**folders)
    people.check(settings["PEOPLE"])
    only_classes(folders.values(), classes)


def only_classes(folders, classes):
    """End the program if a folder already has photos of other classes, which would be trained together with these."""
    known = {normal(name) for name in classes}
    for folder in folders:
        others = sorted(p.name for p in Path(folder).glob("*") if p.is_dir() and normal(p.name) not in known
                        and not is_system(p.name) and any(not is_system(inner.name) for inner in p.iterdir()))
        if others:
            script.fail(f"{folder} already has photos of {', '.join(others)}, not {' and '.join(classes)}: move them "
                        "away, or name other folders with RAW_DIR=... TEST_DIR=...")


def in_test(key, ratio):
    """Whether `key` (the name of a file or a person) is in the share `ratio` (0..1) for the test.

    It depends only on the key, so that new photos never move old ones to the other side.
    """
    number = int(hashlib.sha1(key.encode(errors="surrogateescape")).hexdigest(), 16)
    # A number in 0..1 of three decimals. The first one is the last digit of the hash, so that the share 0.1 has the
    # keys whose hash ends in 0.
    first, second_and_third = number % 10, number // 10 % 100
    return (100 * first + second_and_third) / 1000 < ratio


def source_folder(source, hint, raw_dir, test_dir):
    """The folder `source`, or that of an archive, which is unpacked once, beside the archive. Ends the program if
    `source` does not exist, or overlaps with a folder for photos.
    """
    source = Path(source).expanduser()
    ending = max((e for e in ARCHIVES if source.name.lower().endswith(e)), key=len, default="")
    folder = source.with_name(source.name[:-len(ending)]) if ending and not source.is_dir() else source
    places.check_apart(SOURCE=folder, RAW_DIR=raw_dir, TEST_DIR=test_dir)
    if folder.is_dir():
        return folder
    if not ending or not source.is_file():
        script.fail(f"there is no {source}: {hint}, then name it with SOURCE=<folder or archive>")
    print(f"unpacking {source.name} into {folder.as_posix()}")
    records.claim(source.parent, [folder.name])
    try:
        # Under a temporary name until it is complete, so that a stopped run leaves nothing that looks complete.
        with files.atomic_folder(folder) as temporary:
            safe = {} if ending == ".zip" else {"filter": "data"}
            shutil.unpack_archive(source, temporary, **safe)
    except Exception as error:  # nearly any, if it is damaged, encrypted or compressed by an unknown method
        if isinstance(error, MemoryError) or getattr(error, "errno", None):  # e.g. a full disk, not the archive's fault
            raise
        script.fail(f"{source} cannot be unpacked ({error}): download it again, or unpack it with another program and "
                    "name the folder")
    finally:
        records.release(source.parent, [folder.name])  # it is the user's from now on
    return folder


def picture_folder(root, name, hint, raw_dir, test_dir):
    """The folder `name` in `root`, or in the unpacked archive of that name there, maybe in an inner folder."""
    folder = find(root, name)
    if folder is None:
        archive = find(root, *(name + ending for ending in ARCHIVES))
        if archive is None:
            script.fail(f"{root} has no folder {name}: {hint}")
        folder = source_folder(archive, hint, raw_dir, test_dir)
    while (folder / name).is_dir():
        folder = folder / name
    return folder


def find(folder, *names):
    """The first file or folder called one of `names` in `folder`, at most three levels down, or None.

    Files of operating systems, such as those in __MACOSX in archives of Macs, are ignored.
    """
    for depth in ("", "*/", "*/*/", "*/*/*/"):
        for name in names:
            for path in sorted(Path(folder).glob(depth + name)):
                if not any(is_system(part) for part in path.relative_to(folder).parts):
                    return path
    return None


def place(photos, raw_dir, test_dir, people_file):
    """Put `photos` into <raw_dir or test_dir>/<class>/<name>, by hard link if possible, else by copy, and their labels
    into people.csv. Prints counts.

    SOURCE is only read. A photo that an earlier run has put elsewhere is moved, so that no photo is in both training
    and test. All errors are raised before anything is placed.
    """
    folders = {"raw": Path(raw_dir), "test": Path(test_dir)}
    people.check(people_file)
    found = [photo._replace(name=safe_name(photo.name)) for photo in photos if photo.path.is_file()]
    targets = check_photos(found, folders)
    placed = Placed(folders.values())
    placed.check_apart(found)
    new, old, total, rows = {}, set(), Counter(), []
    for photo, target in tqdm(targets.items(), unit="photo", smoothing=0, disable=len(found) < 1000):
        path, copies = placed.path_for(photo, target)
        old |= copies
        if not os.path.lexists(path):
            new[photo] = path
        folder = next(folder for folder in folders.values() if path.is_relative_to(folder))
        inner = path.relative_to(folder)
        total[folder, inner.parts[0]] += 1
        rows.append((inner.as_posix(), photo.source, photo.person, photo.age, photo.ethnicity))
    moved = old - set(targets.values())
    for folder in folders.values():
        names = names_in(folder, new.values())
        if names:
            records.claim(folder, names)
    for photo, target in new.items():
        files.link(photo.path, target)
    for folder in folders.values():
        records.remove_ours(folder, names_in(folder, moved))
    if rows:
        people.write(people_file, named_shortly(rows))
    print_counts(folders.values(), total, len(new), len(moved), len(photos) - len(found))
    if not total:
        script.fail("no photo found: check SOURCE, whose layout data/README.md describes")


def names_in(folder, paths):
    """Those of `paths` that are in `folder`, with their names in its record: list of "class/name"."""
    return [path.relative_to(folder).as_posix() for path in paths if path.is_relative_to(folder)]


def check_photos(photos, folders):
    """{photo: the Path for it in `folders`, {"raw" or "test": Path}}. Names that differ only by case, which are
    the same name on many disks, get a digest, except the first.

    Raises Problem for names that are not valid, or appear twice.
    """
    targets, taken, folded = {}, {}, set()
    for photo in photos:
        for text in (photo.class_name, photo.name):
            if not is_file_name(text):
                raise script.Problem(f"{text!r} cannot be the name of a class or a photo on this system: choose one "
                                     "of letters, digits and spaces")
        key = normal(f"{photo.class_name}/{photo.name}")
        if key in taken:
            raise script.Problem(f"two photos of SOURCE would both be called {photo.name}: rename one of {taken[key]} "
                                 f"and {photo.path}")
        name = photo.name
        if key.casefold() in folded:
            name = f"{Path(name).stem[:200]}-{name_digest(name)}{Path(name).suffix}"
        taken[key] = photo.path
        folded.add(key.casefold())
        targets[photo] = folders[photo.side] / photo.class_name / name
    return targets


def is_file_name(name, windows=os.name == "nt"):
    """Whether a text can be the name of a file or folder, and is not one that operating systems leave everywhere."""
    if not isinstance(name, str) or is_system(name) or len(os.fsencode(name)) > 255:
        return False
    if windows and (set(name) & set(':?*"<>|') or name.endswith((".", " ")) or DEVICE.fullmatch(name)):
        return False
    return bool(name.strip()) and not set(name) & set("/\\\0\n\r")


class Placed:
    """The existing files in class folders. `ours`: the paths that importers have written; `places`: {identity() of a
    folder: its path}."""

    def __init__(self, folders):
        self.by_name, self.by_identity = defaultdict(set), defaultdict(set)
        self.ours = {folder / name for folder in folders for name in records.written(folder)}
        self.places = {identity(folder): folder for folder in folders if folder.is_dir()}
        for folder in folders:
            for class_folder in folder.glob("*"):  # may be links, whose photos are used like others
                for root, inner, names in files.walk(class_folder):
                    self.places[identity(root)] = root
                    inner[:] = [name for name in inner if not is_system(name)]
                    for name in names:
                        path = Path(root, name)
                        self.by_name[name].add(path)
                        with contextlib.suppress(OSError):  # a link that leads nowhere
                            self.by_identity[identity(path)].add(path)

    def check_apart(self, photos):
        """Raise Problem if a photo of SOURCE is in a folder to which, or from which, photos are moved. That may be
        through a link or a mount on either side, so folders are compared by their identity(), not their paths."""
        checked = set()
        for photo in photos:
            parent = Path(os.path.realpath(photo.path) if photo.path.is_symlink() else photo.path).parent
            if parent in checked:
                continue
            checked.add(parent)
            for around in (parent, *parent.resolve().parents):
                if place := self.places.get(identity(around)):
                    raise script.Problem(f"{photo.path} of SOURCE is in {place}, maybe by a link or a mount: name "
                                         "another SOURCE, or other folders with RAW_DIR=... TEST_DIR=...")

    def spelled(self, target):
        """The path of the existing file at `target`, which on a case-insensitive disk may be spelled differently."""
        if target.name not in self.by_name and os.path.lexists(target):
            for path in target.parent.iterdir():
                if normal(path.name).casefold() == normal(target.name).casefold() and path.name != target.name:
                    return path
        return target

    def path_for(self, photo, target):
        """(path, copies): the path that a photo has or gets, and the set of its copies that importers have written
        elsewhere. A photo that the user has put elsewhere stays there; else the path is `target`. Raises Problem if
        another photo is there."""
        target = self.spelled(target)
        copies = self.copies(photo) - {target}
        theirs = copies - self.ours
        if theirs:
            return min(theirs), set()
        if os.path.lexists(target) and not same_photo(target, photo.path):
            raise script.Problem(f"{target} already exists, and is another photo than {photo.path}: move it away, or "
                                 "give these photos other names (folders.py has PREFIX for that)")
        return target, copies

    def copies(self, photo):
        """The paths of existing copies of a photo: the same file, or an equal file with its name."""
        equal = {path for path in self.by_name.get(photo.name, ()) if same_photo(path, photo.path)}
        return equal | self.by_identity.get(identity(photo.path), set())


def identity(path):
    """(device, inode), which hard links to one file share."""
    status = os.stat(path)
    return status.st_dev, status.st_ino


def same_photo(one, other):
    """Whether two files are hard links to one file, or have equal bytes."""
    with contextlib.suppress(OSError):  # a link that leads nowhere
        return one.samefile(other) or filecmp.cmp(one, other, shallow=False)
    return False


def named_shortly(rows):
    """Rows of people.csv, ("class/name", ...), without the class if the name appears only once."""
    names = [inner.rpartition("/")[2] for inner, *_ in rows]
    count = Counter(names)
    return [(inner if count[name] > 1 else name, *values) for name, (inner, *values) in zip(names, rows, strict=True)]


def move(names, folder, other):
    """Move files of ours, "class/name", to another folder. Raises Problem if a file that is not ours is there."""
    records.claim(other, names)
    with stops.later():
        for name in names:
            files.link(Path(folder, name), Path(other, name))
        records.remove_ours(folder, names)


def print_counts(folders, total, new, moved=0, missing=0):
    """Print how many photos of each class are in each folder. `total`: Counter of (folder, class)."""
    for folder in folders:
        counts = [f"{total[place, name]} {name}" for place, name in sorted(total) if place == folder]
        print(f"{Path(folder).as_posix()}: {', '.join(counts) or 'no photos of this set'}")
    line = f"{new} new, {total.total() - new} already there"
    if moved:
        line += f", {moved} moved from their old place"
    if missing:
        line += f", {missing} named in the labels but not found"
    print(line)


def print_skipped(skipped):
    """Print how many files were left out and why. `skipped`: {reason: list of names}."""
    for reason, names in skipped.items():
        if names:
            shown = ", ".join(map(str, names[:3])) + (", ..." if len(names) > 3 else "")
            print(f"{len(names)} {reason}, left out: {shown}")
