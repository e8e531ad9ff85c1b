"""Records which files are ours. Nothing to run.

Each folder into which a script writes has a text file RECORD. Names of files are added to it before the files are
written. Only files that it names are ever replaced or deleted, and never files behind a link.
"""

import contextlib
import functools
import os
import shutil
import stat
import time
from collections import defaultdict
from pathlib import Path

from terminal import script, stops
from terminal.files import CLAIMED, TEMPORARY, alone, atomic, check_replaceable, is_link, locked, patiently
from terminal.names import name_digest
from terminal.script import Problem

RECORD = ".written.txt"  # in a folder: the names of the files in and below it that this project's scripts have written
RECIPE = ".recipe"  # in a folder of crops: how processed.py made them
SPLIT = ".split.json"  # in both folders of a split: its settings, and whether it is complete
MARKS = {RECIPE, SPLIT}  # a folder with one of these files belongs to that script only
# Seconds after which a half-written file counts as left by a killed program: on disks with locks, if it is not locked;
# on disks without locks, and on Windows.
UNLOCKED, UNUSED = 1, 3600


def is_inner(name):
    """Whether a name in a record is one of a file in or below its folder; a stranger's record may contain anything."""
    parts = name.split("/")
    if os.name == "nt":
        if set(name) & set("\\:"):
            return False
        parts = [part.rstrip(". ") for part in parts]  # Windows ignores these characters at the end
    return "\0" not in name and not {"", ".", ".."}.intersection(parts)


def read_record(folder):
    """The names in the record of `folder`: set of str, without names that lead out of the folder. Raises Problem if the
    record is a link, or not a file."""
    path = Path(folder, RECORD)
    try:
        if not stat.S_ISREG(os.lstat(path).st_mode):
            raise Problem(f"{path} is a link, or not a file, but must be a record of this project: move it away")
        text = patiently(path.read_bytes, path).decode("utf-8-sig", "surrogateescape")
        if os.name == "nt":
            text = text.replace("\r\n", "\n")  # as saved by an editor
    except (FileNotFoundError, NotADirectoryError):
        return set()
    return set(filter(is_inner, text.split("\n")))


def written(folder):
    """The names of our files in and below `folder`: set of str, with "/" between folders. Files behind a link are not
    ours, even if they are in the record."""
    names = read_record(folder)
    links = tuple(f"{place}/" for place in folders_of(names) if is_link(Path(folder, place)))
    return {name for name in names if not name.startswith(links)}


def folders_of(names):
    """The folders of the files `names`, and their parent folders, in the same form: sorted list of str."""
    inner = {name.rpartition("/")[0] for name in names} - {""}
    return sorted({place.as_posix() for name in inner for place in (Path(name), *Path(name).parents)} - {"."})


def change_record(folder, add=(), remove=()):
    """Add names to the record of `folder`, and remove others."""
    with stops.later(), alone(folder):
        before = read_record(folder)
        names = before.difference(remove).union(add)
        if names and names != before:
            with atomic(Path(folder, RECORD)) as new:
                new.write_bytes("".join(f"{name}\n" for name in sorted(names)).encode("utf-8", "surrogateescape"))
        elif before and not names:
            Path(folder, RECORD).unlink()


def claim(folder, names):
    """Create `folder`, and folders in it for the files `names` (relative, with "/" between folders), and add these
    names to the record, so that they are ours from now on.

    Call it before any work starts. Raises Problem, and changes nothing, if one of the files exists and is not ours, is
    behind a link or read-only, or if `folder` is a file, read-only or another script's.
    """
    folder, names = Path(folder), list(names)
    if os.path.lexists(folder) and not folder.is_dir():
        raise Problem(f"{folder} is a file, but must be a folder: name another")
    check_names(folder, names)
    for name in names:
        if "/" not in name:  # most files in class folders are not replaced; atomic() checks the others
            check_replaceable(folder / name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(13, "it is read-only")
        for place in folders_of(names):
            Path(folder, place).mkdir(exist_ok=True)
        with stops.later():
            change_record(folder, add=names)
            first = folder.absolute() not in CLAIMED
            CLAIMED.setdefault(folder.absolute(), set()).update(names)
    except OSError as error:
        raise Problem(f"{folder} cannot be written ({error.strerror}): name another folder") from None
    if first:
        remove_stale(folder)


def check_names(folder, names):
    """Raise Problem if claim() cannot have one of the `names` in `folder`."""
    for place in (folder / name for name in folders_of(names)):
        if is_link(place) or (os.path.lexists(place) and not place.is_dir()):
            raise Problem(f"{place} is a link or a file, but must be a folder: move it away, or name another place")
    recorded = written(folder)
    if recorded and MARKS & recorded != MARKS.intersection(names):
        raise Problem(f"{folder} has the files of another script: name another folder")
    for name in names:
        if "\n" in name:
            raise Problem(f"the name {name!r} has a line break: rename it")
    there = [name for name in names if name not in recorded and os.path.lexists(folder / name)]
    known = written(folder) if there else recorded  # a second run may have claimed them meanwhile
    folded = {name.casefold() for name in known}
    listing = functools.cache(os.listdir)
    for name in there:
        # On a case-insensitive disk, the existing file may be one of ours, spelled differently.
        spelled = name.casefold() not in folded or is_listed(folder, name, listing)
        if name not in known and spelled:
            raise Problem(f"{folder / name} already exists, and this project has not written it: move it away, or name "
                          "another place")


def is_listed(folder, name, listing):
    """Whether a file in or below `folder` is spelled exactly like `name`. `listing`: os.listdir, cached."""
    parts = name.split("/")
    return all(part in listing(os.path.join(folder, *parts[:i])) for i, part in enumerate(parts))


def claim_file(path):
    """claim() for one file."""
    path = Path(path)
    claim(path.parent, [path.name])


def release(folder, names):
    """Remove names from the record of `folder`, so that these files are not ours any more."""
    CLAIMED.get(Path(folder).absolute(), set()).difference_update(names)
    change_record(folder, remove=names)


def release_unwritten():
    """At the end of a run, remove from the records the claimed names that were not written."""
    while CLAIMED:
        folder, names = CLAIMED.popitem()
        there = {name for name in names if os.path.lexists(folder / name)}
        with contextlib.suppress(OSError, Problem):  # the folder has disappeared, or the disk is full
            change_record(folder, add=there, remove=names)


def claim_table(path, columns):
    """claim_file() for a CSV file: an existing file is refused unless it is empty, or its header is `columns`, texts.
    """
    path = Path(path)
    if path.is_file():
        with open(path, "rb") as file:
            first = file.readline().strip()
        if first and first != ",".join(columns).encode():
            raise Problem(f"{path} already exists, and is another table or text: move it away, or name another place")
    claim_file(path)


def remove_ours(folder, names):
    """Delete those of the files `names` in `folder` that are ours, and folders that become empty; returns the number of
    files."""
    folder, names = Path(folder), set(names)
    ours, count = written(folder) & names, 0
    with stops.later():
        for name in ours:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                (folder / name).unlink()
                count += 1
        for place in reversed(folders_of(ours)):
            with contextlib.suppress(OSError):  # files that are not ours are left in it
                (folder / place).rmdir()
        if read_record(folder) & names:
            release(folder, names)
    return count


def remove_stale(folder):
    """Delete files that atomic() left in and below `folder` when a program was killed: temporary files for names in the
    record that are not in use."""
    places = defaultdict(list)
    for name in written(folder) | {RECORD}:
        place, _, last = name.rpartition("/")
        places[place].append(last)
    for place, names in places.items():
        left = [path for path in Path(folder, place).glob(".tmp-*") if TEMPORARY.match(path.name) and not is_link(path)]
        known = set(map(name_digest, names)) if left else ()
        for path in left:
            if TEMPORARY.match(path.name)[1] in known:
                remove_unless_used(path)


def remove_unless_used(path):
    """Delete a temporary file or folder of atomic(), unless another run may be writing it."""
    with contextlib.suppress(OSError), locked(path, wait=False) as mine:  # another run may have deleted it
        if mine is False or age(path) <= (UNLOCKED if mine else UNUSED):
            return
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def age(path):
    """Seconds since the last change of a file, or of anything in a folder."""
    return time.time() - max(os.lstat(place).st_ctime for place in (path, *path.rglob("*")))


script.AT_END.append(release_unwritten)
