"""What the importers share: the test share by hash, placing photos without using space, the counts.

An importer makes a list of rows (source file, "raw" or "test", class, file name) and hands it to place().
"""

import hashlib
import os
import shutil
import sys
import tarfile
import tempfile
import zipfile
import zlib
from pathlib import Path

from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from terminal import script  # noqa: E402
from terminal.files import UMASK, is_system, link, normal  # noqa: E402

ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz")


def in_test(key, ratio):
    """Whether `key` (a file name, or a person's) is among the `ratio` (0..1) that is kept for the test.

    The answer depends on the key alone, so that new photos never move old ones from one side to the other.
    """
    number = int(hashlib.sha1(key.encode()).hexdigest(), 16)
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


def source_folder(source, hint):
    """The folder `source`, or the one that an archive unpacks to, once, beside itself; missing ones end the program."""
    source = Path(source).expanduser()
    if source.is_dir():
        return source
    ending = next((e for e in sorted(ARCHIVES, key=len, reverse=True) if source.name.lower().endswith(e)), None)
    folder = source.with_name(source.name[:-len(ending)]) if ending else None
    if folder and folder.is_dir():
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
            temporary.chmod(0o777 & ~UMASK)
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


def place(rows, raw_dir, test_dir, by_class=False):
    """Put photos into <raw_dir or test_dir>/<class>/<name>, by hard link where that can be done, or else by copy.

    `rows`: (source, side, class, name). What is there already stays; a photo that has changed sides or class is taken
    away from its old place, so that none is in the training and the test. With `by_class` a name may come once in
    each class, and photos never change class. Prints counts; returns the number of new photos.
    """
    folders = {"raw": Path(raw_dir), "test": Path(test_dir)}
    classes = sorted({row[2] for row in rows})
    seen, new, moved, missing = {}, 0, 0, 0
    there = {(side, name): {e.name for e in os.scandir(folders[side] / name)} if (folders[side] / name).is_dir()
             else set() for side in folders for name in classes}
    for source, side, class_name, name in tqdm(rows, unit="photo", smoothing=0, disable=len(rows) < 1000):
        if not source.is_file():
            missing += 1
            continue
        key = (class_name, name) if by_class else name
        if key in seen:
            script.fail(f"two photos of SOURCE would both be called {name}: rename one ({source})")
        seen[key] = (side, class_name)
        for old, names in there.items():
            if old != (side, class_name) and name in names and (not by_class or old[1] == class_name):
                former = folders[old[0]] / old[1] / name
                if same_photo(former, source):
                    former.unlink()
                    names.remove(name)
                    moved += 1
        target = folders[side] / class_name / name
        if name in there[side, class_name]:
            if not same_photo(target, source):
                script.fail(f"{target} is there already and is another photo than {source}: move it away, or give "
                            "these photos other names (folders.py has PREFIX for that)")
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        link(source, target)
        there[side, class_name].add(name)
        new += 1
    total = {}
    for where in seen.values():
        total[where] = total.get(where, 0) + 1
    for side, folder in folders.items():
        counts = [f"{total[side, name]} {name}" for name in classes if (side, name) in total]
        print(f"{folder}: {', '.join(counts) or 'none'}")
    print(f"{new} new, {len(seen) - new} already there" + (f", {moved} moved from their old place" if moved else "")
          + (f", {missing} named in the labels but not found" if missing else ""))
    if not seen:
        script.fail("no photo found: check SOURCE, and read what data/README.md says about its layout")
    return new


def same_photo(one, other):
    """Whether two files are one by hard link, or equal as copies are."""
    return one.samefile(other) or (one.stat().st_size == other.stat().st_size
                                   and one.read_bytes() == other.read_bytes())


def report_skipped(skipped):
    """Print how many entries were left out and why: `skipped` is a dict of reason -> list of names."""
    for reason, names in skipped.items():
        if names:
            shown = ", ".join(map(str, names[:3])) + (", ..." if len(names) > 3 else "")
            print(f"{len(names)} {reason}, left out: {shown}")
