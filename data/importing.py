"""What the importers share: the test share by hash, placing photos without using space.

An importer makes a list of Photos and hands it to place().
"""

import contextlib
import hashlib
import os
import shutil
import sys
import tarfile
import tempfile
import zipfile
import zlib
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from faces import people  # noqa: E402
from terminal import files, script  # noqa: E402
from terminal.files import is_system, normal  # noqa: E402

ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz")


def in_test(key, ratio):
    """Whether `key` (a file name, or a person's) is among the `ratio` (0..1) that is kept for the test.

    The answer depends on the key alone, so that new photos never move old ones from one side to the other.
    """
    if not 0 <= ratio <= 1:
        raise script.Problem(f"TEST_RATIO={ratio}: must be between 0 and 1")
    number = int(hashlib.sha1(key.encode(errors="surrogateescape")).hexdigest(), 16)
    return (number % 10 * 100 + number // 10 % 100) / 1000 < ratio


def only_classes(folders, classes):
    """End the program where a folder already has photos of other classes: mixed, they would train as one problem."""
    known = {normal(name) for name in classes}
    for folder in folders:
        others = sorted(p.name for p in Path(folder).glob("*") if p.is_dir() and normal(p.name) not in known
                        and not is_system(p.name) and any(not is_system(inner.name) for inner in p.iterdir()))
        if others:
            script.fail(f"{folder} already has photos of {', '.join(others)}, not {' and '.join(classes)}: move them "
                        "away, or name other folders with RAW_DIR=... TEST_DIR=...")


def source_folder(source, hint, raw_dir="data/raw", test_dir="data/test"):
    """The folder `source`, or the one that an archive unpacks to, once, beside itself; missing ones end the program.

    So does one that overlaps with a folder that photos are put into.
    """
    source = Path(source).expanduser()
    ending = next((e for e in sorted(ARCHIVES, key=len, reverse=True) if source.name.lower().endswith(e)), None)
    folder = source.with_name(source.name[:-len(ending)]) if ending and not source.is_dir() else source
    for name, other in {"RAW_DIR": raw_dir, "TEST_DIR": test_dir}.items():
        files.check_apart(SOURCE=folder, **{name: other})
    if folder.is_dir():
        return folder
    if not ending or not source.is_file():
        script.fail(f"there is no {source}: {hint}, then name it with SOURCE=<folder or archive>")
    print(f"unpacking {source.name} into {folder}")
    # Under another name until it is whole, so that a stopped run leaves nothing that looks complete.
    temporary = Path(tempfile.mkdtemp(prefix=".tmp-", dir=source.parent))
    try:
        safe = {} if ending == ".zip" else {"filter": "data"}
        shutil.unpack_archive(source, temporary, **safe)
        if os.name != "nt":
            temporary.chmod(0o777 & ~files.UMASK)
        os.replace(temporary, folder)
    except (shutil.ReadError, tarfile.TarError, zipfile.BadZipFile, zlib.error, ValueError, EOFError) as error:
        script.fail(f"{source} cannot be unpacked ({error}): download it again")
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def inner_folder(source):
    """The folder in `source` that has the class folders: archives often hold one folder in which all the others lie."""
    while (len(inner := [p for p in source.iterdir() if not is_system(p.name)]) == 1 and inner[0].is_dir()
           and any(p.is_dir() and not is_system(p.name) for p in inner[0].iterdir())):
        source = inner[0]
    return source


def find(folder, *names):
    """The first file or folder called one of `names` in `folder`, at most three levels down, or None.

    Never what a system has left, such as the shadows that archives of Macs have in __MACOSX.
    """
    for depth in ("", "*/", "*/*/", "*/*/*/"):
        for name in names:
            found = sorted(p for p in Path(folder).glob(depth + name)
                           if not any(is_system(part) for part in p.relative_to(folder).parts))
            if found:
                return found[0]
    return None


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


def place(photos, raw_dir, test_dir, people_file=people.PEOPLE, by_class=False):
    """Put `photos` into <raw_dir or test_dir>/<class>/<name>, by hard link where that can be done, or else by copy, and
    what is known of them into people.csv. Prints counts.

    SOURCE is only read. A photo that an earlier run has put elsewhere is taken away from there, so that none is in the
    training and the test; one that the user has put elsewhere stays there alone. With `by_class` a name may come once
    in each class. Whatever is wrong is one line, before anything is placed.
    """
    folders = {"raw": Path(raw_dir), "test": Path(test_dir)}
    people.read(people_file)
    found = [photo for photo in photos if photo.path.is_file()]
    targets = check_photos(found, folders, by_class)
    there = Placed(folders)
    new, total, rows, moved = {"raw": [], "test": []}, Counter(), [], {"raw": set(), "test": set()}
    for photo in tqdm(found, unit="photo", smoothing=0, disable=len(found) < 1000):
        target = photo.side, f"{photo.class_name}/{photo.name}"
        others = [place for place in there.copies(photo, by_class) if place != target]
        theirs = next((place for place in others if place[1] not in there.ours[place[0]]), None)
        for side, inner in others if theirs is None else ():
            if (side, inner) not in targets:
                moved[side].add(inner)
        if theirs is None and not there.has(target):
            new[photo.side].append(photo)
        elif theirs is None and not same_photo(folders[target[0]] / target[1], photo.path):
            raise script.Problem(f"{folders[target[0]] / target[1]} is there already and is another photo than "
                                 f"{photo.path}: move it away, or give these photos other names (folders.py has PREFIX "
                                 "for that)")
        side, inner = theirs or target
        total[side, inner.partition("/")[0]] += 1
        rows.append((inner, *photo[4:]))
    for side, folder in folders.items():
        if new[side]:
            files.claim(folder, [f"{photo.class_name}/{photo.name}" for photo in new[side]])
    for side, folder in folders.items():
        files.remove_ours(folder, moved[side])
        for photo in new[side]:
            target = folder / photo.class_name / photo.name
            target.parent.mkdir(parents=True, exist_ok=True)
            files.link(photo.path, target)
    if rows:
        people.write(people_file, named_shortly(rows))
    count = {"new": sum(map(len, new.values())), "moved": sum(map(len, moved.values()))}
    report_counts(folders, total, **count, missing=len(photos) - len(found))


class Placed:
    """What lies in the folders of the photos: {"raw" or "test": folder}. `ours`: the names that importers wrote."""

    def __init__(self, folders):
        self.folders, self.names, self.identities = folders, {}, {}
        self.ours = {side: files.written(folder) for side, folder in folders.items()}
        for side, folder in folders.items():
            for class_folder in sorted(folder.glob("*")):  # which may be links: their photos are used like others
                for root, inner, names in os.walk(class_folder):
                    inner[:] = [name for name in inner if not is_system(name)]
                    for name in names:
                        self.note(side, Path(root, name))

    def note(self, side, path):
        """Keep in mind where a file is."""
        place = side, path.relative_to(self.folders[side]).as_posix()
        self.names.setdefault(path.name, []).append(place)
        with contextlib.suppress(OSError):  # a link that leads nowhere
            self.identities.setdefault(identity(path), []).append(place)

    def has(self, place):
        """Whether there is something at (side, "class/name")."""
        return place in self.names.get(place[1].rpartition("/")[2], ())

    def copies(self, photo, by_class):
        """Where a photo lies already, [(side, "class/name")]: the same file, or an equal one of its name."""
        found = dict.fromkeys(self.identities.get(identity(photo.path), ()))
        for side, inner in self.names.get(photo.name, ()):
            if not by_class or inner == f"{photo.class_name}/{photo.name}":
                if same_photo(self.folders[side] / inner, photo.path):
                    found[side, inner] = None
        return list(found)


def identity(path):
    """What two hard links to one file have in common."""
    status = os.stat(path)
    return status.st_dev, status.st_ino


def check_photos(photos, folders, by_class):
    """The targets (side, "class/name") of `photos`. Raises Problem where a name is none, or leads out of its folder,
    where two photos have one name, and where a photo of SOURCE lies in one of `folders`.
    """
    files.check_apart(RAW_DIR=folders["raw"], TEST_DIR=folders["test"])
    inside, targets, taken = {}, set(), {}
    for photo in photos:
        for text in (photo.class_name, photo.name):
            if not is_plain(text):
                raise script.Problem(f"{text!r} is no name of a class or a photo: choose one without / and \\, that "
                                     "does not begin with a dot")
        real = Path(os.path.realpath(photo.path)).parent if photo.path.is_symlink() else photo.path.parent
        if real not in inside:
            inside[real] = next((folder for folder in folders.values() for place in (real, *real.resolve().parents)
                                 if files.same_file(place, folder)), None)
        if inside[real]:
            raise script.Problem(f"{photo.path} of SOURCE lies in {inside[real]}, where photos are put: name another "
                                 "SOURCE, or other folders with RAW_DIR=... TEST_DIR=...")
        key = normal(f"{photo.class_name}/{photo.name}" if by_class else photo.name)
        if key in taken:
            raise script.Problem(f"two photos of SOURCE would both be called {photo.name}: rename one of {taken[key]} "
                                 f"and {photo.path}")
        taken[key] = photo.path
        targets.add((photo.side, f"{photo.class_name}/{photo.name}"))
    return targets


def is_plain(name):
    """Whether a text can be the name of a file or folder on all systems, and is none that systems leave behind."""
    return (isinstance(name, str) and bool(name.strip()) and not is_system(name) and not set(name) & set("/\\\0\n\r")
            and len(os.fsencode(name)) <= 255)


def named_shortly(rows):
    """Rows of people.csv, ("class/name", ...), without the class where a name comes only once."""
    count = Counter(row[0].rpartition("/")[2] for row in rows)
    return [(inner if count[name := inner.rpartition("/")[2]] > 1 else name, *values) for inner, *values in rows]


def report_counts(folders, total, new, moved, missing):
    """Print how many photos of each class lie where. `total`: Counter of (side, class)."""
    for side, folder in folders.items():
        counts = [f"{total[key]} {key[1]}" for key in sorted(total) if key[0] == side]
        print(f"{folder}: {', '.join(counts) or 'none'}")
    print(f"{new} new, {total.total() - new} already there" + (f", {moved} moved from their old place" if moved else "")
          + (f", {missing} named in the labels but not found" if missing else ""))
    if not total:
        script.fail("no photo found: check SOURCE, and read what data/README.md says about its layout")


def same_photo(one, other):
    """Whether two files are one by hard link, or equal as copies are."""
    try:
        return one.samefile(other) or (one.stat().st_size == other.stat().st_size
                                       and one.read_bytes() == other.read_bytes())
    except OSError:  # a folder, or a link that leads nowhere
        return False


def report_skipped(skipped):
    """Print how many entries were left out and why: `skipped` is a dict of reason -> list of names."""
    for reason, names in skipped.items():
        if names:
            shown = ", ".join(map(str, names[:3])) + (", ..." if len(names) > 3 else "")
            print(f"{len(names)} {reason}, left out: {shown}")
