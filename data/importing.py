"""What the importers share: archives, the test share by hash, placing photos without using space.

An importer of a data set only finds its Photos; bring_in() does the rest.
"""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
from terminal import script  # isort: skip  # first, see terminal/script.py

# ruff: noqa: E402
import contextlib
import filecmp
import hashlib
import re
import shutil
import tarfile
import zipfile
import zlib
from collections import Counter, defaultdict
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from faces import people
from terminal import files, stops
from terminal.files import is_system, normal

DEVICE = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # names that Windows keeps for devices
ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz")


class Photo(NamedTuple):
    """A photo to be placed, and what its data set says of it."""

    path: Path  # in SOURCE
    side: str  # "raw" or "test"
    class_name: str
    name: str  # of the file, where it is placed
    source: str = ""
    person: str = ""
    age: str = ""
    ethnicity: str = ""


def bring_in(settings, hint, find_photos, classes=("man", "woman")):
    """Import a data set into RAW_DIR, TEST_DIR and PEOPLE.

    `settings`: the importer's globals(); `hint`: where the data set can be had; `classes`: None for any.
    find_photos(source, skipped) yields the Photos in the folder `source`, and appends the names of what it leaves out
    to skipped[reason].
    """
    raw_dir, test_dir, skipped = settings["RAW_DIR"], settings["TEST_DIR"], defaultdict(list)
    source = source_folder(settings["SOURCE"], hint, raw_dir, test_dir)
    if classes:
        only_classes([raw_dir, test_dir], classes)
    photos = list(find_photos(source, skipped))
    report_skipped(skipped)
    place(photos, raw_dir, test_dir, settings["PEOPLE"])


def check_targets(settings, classes):
    """End the program where photos of `classes` cannot be written: by the constants of a script, its globals()."""
    folders = {name: settings[name] for name in ("RAW_DIR", "TEST_DIR")}
    files.check_apart(**folders)
    people.check(settings["PEOPLE"])
    only_classes(folders.values(), classes)


def only_classes(folders, classes):
    """End the program where a folder already has photos of other classes: mixed, they would train as one problem."""
    known = {normal(name) for name in classes}
    for folder in folders:
        others = sorted(p.name for p in Path(folder).glob("*") if p.is_dir() and normal(p.name) not in known
                        and not is_system(p.name) and any(not is_system(inner.name) for inner in p.iterdir()))
        if others:
            script.fail(f"{folder} already has photos of {', '.join(others)}, not {' and '.join(classes)}: move them "
                        "away, or name other folders with RAW_DIR=... TEST_DIR=...")


def in_test(key, ratio):
    """Whether `key` (a file name, or a person's) is among the `ratio` (0..1) that is kept for the test.

    The answer depends on the key alone, so that new photos never move old ones from one side to the other.
    """
    if not 0 <= ratio <= 1:
        raise script.Problem(f"TEST_RATIO={ratio}: must be between 0 and 1")
    number = int(hashlib.sha1(key.encode(errors="surrogateescape")).hexdigest(), 16)
    return (number % 10 * 100 + number // 10 % 100) / 1000 < ratio


def source_folder(source, hint, raw_dir="data/raw", test_dir="data/test"):
    """The folder `source`, or the one that an archive unpacks to, once, beside itself. Ends the program where there is
    none, or where it overlaps with a folder that photos are put into.
    """
    source = Path(source).expanduser()
    ending = max((e for e in ARCHIVES if source.name.lower().endswith(e)), key=len, default="")
    folder = source.with_name(source.name[:-len(ending)]) if ending and not source.is_dir() else source
    files.check_apart(SOURCE=folder, RAW_DIR=raw_dir, TEST_DIR=test_dir)
    if folder.is_dir():
        return folder
    if not ending or not source.is_file():
        script.fail(f"there is no {source}: {hint}, then name it with SOURCE=<folder or archive>")
    print(f"unpacking {source.name} into {folder.as_posix()}")
    files.claim(source.parent, [folder.name])
    try:
        # Under another name until it is whole, so that a stopped run leaves nothing that looks complete.
        with files.atomic_folder(folder) as temporary:
            safe = {} if ending == ".zip" else {"filter": "data"}
            shutil.unpack_archive(source, temporary, **safe)
    except (shutil.ReadError, tarfile.TarError, zipfile.BadZipFile, zlib.error, ValueError, EOFError) as error:
        script.fail(f"{source} cannot be unpacked ({error}): download it again")
    finally:
        files.release(source.parent, [folder.name])  # it is the user's from now on
    return folder


def picture_folder(source, name, hint, raw_dir, test_dir):
    """The folder `name` in `source`, or what its archive there unpacks to, which often has the folder in a folder."""
    folder = find(source, name)
    if not folder and (archive := find(source, *(name + ending for ending in ARCHIVES))):
        folder = source_folder(archive, hint, raw_dir, test_dir)
    if not folder:
        script.fail(f"{source} has no folder {name}: {hint}")
    while (folder / name).is_dir():
        folder = folder / name
    return folder


def find(folder, *names):
    """The first file or folder called one of `names` in `folder`, at most three levels down, or None.

    Never what a system has left, such as the shadows that archives of Macs have in __MACOSX.
    """
    for depth in ("", "*/", "*/*/", "*/*/*/"):
        for name in names:
            for path in sorted(Path(folder).glob(depth + name)):
                if not any(is_system(part) for part in path.relative_to(folder).parts):
                    return path
    return None


def place(photos, raw_dir, test_dir, people_file=people.PEOPLE):
    """Put `photos` into <raw_dir or test_dir>/<class>/<name>, by hard link where that can be done, or else by copy, and
    what is known of them into people.csv. Prints counts.

    SOURCE is only read. A photo that an earlier run has put elsewhere is taken away from there, so that none is in the
    training and the test; one that the user has put elsewhere stays there alone. Whatever is wrong is one line, before
    anything is placed.
    """
    folders = {"raw": Path(raw_dir), "test": Path(test_dir)}
    people.check(people_file)
    found = [photo for photo in photos if photo.path.is_file()]
    targets = check_photos(found, folders)
    there, taken = Placed(folders.values()), set(targets.values())
    there.check_apart(found)
    new, moved, total, rows = {}, set(), Counter(), []
    for photo, target in tqdm(targets.items(), unit="photo", smoothing=0, disable=len(found) < 1000):
        others = there.copies(photo) - {target}
        theirs = min(others - there.ours, default=None)
        if theirs is None:
            moved |= others - taken
            if not os.path.lexists(target):
                new[photo] = target
            elif not same_photo(target, photo.path):
                raise script.Problem(f"{target} is there already and is another photo than {photo.path}: move it away, "
                                     "or give these photos other names (folders.py has PREFIX for that)")
        path = theirs or target
        folder = next(folder for folder in folders.values() if path.is_relative_to(folder))
        inner = path.relative_to(folder)
        total[folder, inner.parts[0]] += 1
        rows.append((inner.as_posix(), *photo[4:]))
    for folder in folders.values():
        if names := names_in(folder, new.values()):
            files.claim(folder, names)
    for photo, target in new.items():
        files.link(photo.path, target)
    for folder in folders.values():
        files.remove_ours(folder, names_in(folder, moved))
    if rows:
        people.write(people_file, named_shortly(rows))
    report_counts(folders.values(), total, len(new), len(moved), len(photos) - len(found))
    if not total:
        script.fail("no photo found: check SOURCE, and read what data/README.md says about its layout")


def names_in(folder, paths):
    """Those of `paths` that lie in `folder`, as its record names them: list of "class/name"."""
    return [path.relative_to(folder).as_posix() for path in paths if path.is_relative_to(folder)]


def check_photos(photos, folders):
    """{photo: the Path where it is to be placed in `folders`, {"raw" or "test": Path}}.

    Raises Problem for names that are not plain or come twice.
    """
    targets, taken = {}, {}
    for photo in photos:
        for text in (photo.class_name, photo.name):
            if not is_plain(text):
                raise script.Problem(f"{text!r} can be no name of a class or a photo on this system: choose another, "
                                     "of letters, digits and spaces")
        key = normal(f"{photo.class_name}/{photo.name}")
        if key in taken:
            raise script.Problem(f"two photos of SOURCE would both be called {photo.name}: rename one of {taken[key]} "
                                 f"and {photo.path}")
        taken[key] = photo.path
        targets[photo] = folders[photo.side] / photo.class_name / photo.name
    return targets


def is_plain(name, windows=os.name == "nt"):
    """Whether a text can be the name of a file or folder here, and is none that systems leave behind."""
    if not isinstance(name, str) or is_system(name) or len(os.fsencode(name)) > 255:
        return False
    if windows and (set(name) & set(':?*"<>|') or name.endswith((".", " ")) or DEVICE.fullmatch(name)):
        return False
    return bool(name.strip()) and not set(name) & set("/\\\0\n\r")


class Placed:
    """The files below class folders that are there already. `ours`: the paths that importers have written; `places`:
    identity() of each folder -> its path."""

    def __init__(self, folders):
        self.by_name, self.by_identity = defaultdict(set), defaultdict(set)
        self.ours = {folder / name for folder in folders for name in files.written(folder)}
        self.places = {identity(folder): folder for folder in folders if folder.is_dir()}
        for folder in folders:
            for class_folder in folder.glob("*"):  # which may be links: their photos are used like others
                for root, inner, names in os.walk(class_folder):
                    self.places[identity(root)] = root
                    inner[:] = [name for name in inner if not is_system(name)]
                    for name in names:
                        path = Path(root, name)
                        self.by_name[name].add(path)
                        with contextlib.suppress(OSError):  # a link that leads nowhere
                            self.by_identity[identity(path)].add(path)

    def check_apart(self, photos):
        """Raise Problem where a photo of SOURCE lies in a folder that photos are put into, or taken away from. It may
        do so through a link or a mount, on either side, so that the folder is known by its identity, not its path."""
        checked = set()
        for photo in photos:
            parent = Path(os.path.realpath(photo.path) if photo.path.is_symlink() else photo.path).parent
            if parent in checked:
                continue
            checked.add(parent)
            for around in (parent, *parent.resolve().parents):
                if place := self.places.get(identity(around)):
                    raise script.Problem(f"{photo.path} of SOURCE lies in {place}, maybe by a link or a mount: name "
                                         "another SOURCE, or other folders with RAW_DIR=... TEST_DIR=...")

    def copies(self, photo):
        """The paths where a photo lies already: the same file, or an equal one of its name."""
        equal = {path for path in self.by_name.get(photo.name, ()) if same_photo(path, photo.path)}
        return equal | self.by_identity.get(identity(photo.path), set())


def identity(path):
    """What two hard links to one file have in common."""
    status = os.stat(path)
    return status.st_dev, status.st_ino


def same_photo(one, other):
    """Whether two files are one by hard link, or equal as copies are."""
    with contextlib.suppress(OSError):  # a link that leads nowhere
        return one.samefile(other) or filecmp.cmp(one, other, shallow=False)
    return False


def named_shortly(rows):
    """Rows of people.csv, ("class/name", ...), without the class where a name comes only once."""
    count = Counter(row[0].rpartition("/")[2] for row in rows)
    return [(inner if count[name := inner.rpartition("/")[2]] > 1 else name, *values) for inner, *values in rows]


def move(names, folder, other):
    """Move files of ours, "class/name", to another folder. Raises Problem where one is there that is not ours."""
    files.claim(other, names)
    with stops.later():
        for name in names:
            files.link(Path(folder, name), Path(other, name))
        files.remove_ours(folder, names)


def report_counts(folders, total, new, moved=0, missing=0):
    """Print how many photos of each class lie where. `total`: Counter of (folder, class)."""
    for folder in folders:
        counts = [f"{total[key]} {key[1]}" for key in sorted(total) if key[0] == folder]
        print(f"{Path(folder).as_posix()}: {', '.join(counts) or 'none'}")
    print(f"{new} new, {total.total() - new} already there" + (f", {moved} moved from their old place" if moved else "")
          + (f", {missing} named in the labels but not found" if missing else ""))


def report_skipped(skipped):
    """Print how many entries were left out and why: `skipped` is a dict of reason -> list of names."""
    for reason, names in skipped.items():
        if names:
            shown = ", ".join(map(str, names[:3])) + (", ..." if len(names) > 3 else "")
            print(f"{len(names)} {reason}, left out: {shown}")
