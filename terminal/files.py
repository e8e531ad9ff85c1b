"""Files that are written whole, the record of those that are ours, hard links, class folders.

Each folder that a script writes into has a text file RECORD. The names of its files stand there before they are
written, and only files that it names are ever replaced or deleted.
"""

import contextlib
import itertools
import os
import re
import shutil
import tempfile
import time
import unicodedata
from pathlib import Path

from terminal import script
from terminal.script import Problem, fail

RECORD = ".written.txt"  # in a folder: the files in it, and below it, that scripts of this project have written
RECIPE = ".recipe"  # in a folder of crops: how processed.py made them
SPLIT = ".split.json"  # in both folders of a split: what validation.py made it from, and whether it is complete
MARKS = {RECIPE, SPLIT}  # a folder with one of them belongs to that script alone
UNSURE = "unsure"  # what is said of a face where the network is not sure, so that no class can have this name
TEMPORARY = r"\.tmp-[a-z0-9_]{8}(\.\w+)?"  # names that atomic() gives

SYSTEM_NAMES = {"__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "picasa.ini", "$recycle.bin",
                "system volume information", "recycler", "lost+found", "found.000", "@eadir", "#recycle", "#snapshot"}


@contextlib.contextmanager
def atomic(path):
    """Yield a temporary Path beside `path`; it replaces `path` when the block ends well, and is removed otherwise."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=".tmp-", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        if os.name != "nt":
            temporary.chmod(0o666 & ~UMASK)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def written(folder):
    """The names of the files in `folder` and below it that are ours: set of str, with "/" between folders."""
    try:
        text = Path(folder, RECORD).read_bytes().decode("utf-8", "surrogateescape")
    except (FileNotFoundError, NotADirectoryError):
        return set()
    return set(text.split("\n")) - {""}


def claim(folder, names, ours=()):
    """Make `folder`, and note that the files `names` in it (relative, with "/" between folders) are ours from now on.

    To be called before any work starts. Raises Problem, and changes nothing, where one of them is there and is not
    ours, or lies behind a link, and where `folder` is a file, read-only or another script's. `ours`: names that count
    as ours without a record, from versions that kept none.
    """
    folder, names = Path(folder), list(names)
    if os.path.lexists(folder) and not folder.is_dir():
        raise Problem(f"{folder} is a file and is to be a folder: name another")
    check_names(folder, names, ours)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(13, "it is read-only")
        recorded = written(folder)
        with open(folder / RECORD, "a", encoding="utf-8", errors="surrogateescape", newline="\n") as file:
            # The last line of a run that was killed may be half a name: what follows starts on a line of its own.
            file.write("".join(f"\n{name}" for name in dict.fromkeys(names) if name not in recorded) + "\n")
        CLAIMED.setdefault(folder.absolute(), set()).update(names)
    except OSError as error:
        raise Problem(f"{folder} cannot be written ({error.strerror}): name another folder") from None


def check_names(folder, names, ours):
    """Raise Problem where claim() cannot have one of the `names` in `folder`."""
    inner = {folder / place for name in names for place in Path(name).parents} - {folder}
    for place in sorted(inner):
        if place.is_symlink() or os.path.lexists(place) and not place.is_dir():
            raise Problem(f"{place} is a link or a file and is to be a folder: move it away, or name another place")
    recorded = written(folder)
    if recorded and MARKS & recorded != MARKS.intersection(names):
        raise Problem(f"{folder} is where another script has put its files: name another folder")
    known = recorded | set(ours)
    for name in names:
        if "\n" in name:
            raise Problem(f"the name {name!r} has a line break: rename it")
        if name in known or not os.path.lexists(folder / name):
            continue
        known |= written(folder)  # a second run may have claimed it meanwhile
        # Some disks take a and A for one name.
        if not any(same_file(folder / name, folder / other) for other in known if other.casefold() == name.casefold()):
            raise Problem(f"{folder / name} is there already, and this project has not written it: move it away, or "
                          "name another place")


def claim_file(path, ours=False):
    """claim() of one file. `ours`: it counts as ours without a record."""
    path = Path(path)
    claim(path.parent, [path.name], [path.name] * ours)


def settle():
    """At the end of a run, take the claimed names that were not written out of the records: they are free again."""
    while CLAIMED:
        folder, names = CLAIMED.popitem()
        with contextlib.suppress(OSError):  # the folder is gone, or the disk is full
            recorded, there = written(folder), {name for name in names if os.path.lexists(folder / name)}
            if recorded != recorded - names | there:
                write_record(folder, recorded - names | there)


def write_record(folder, names):
    """Write RECORD; without names there is none."""
    if not names:
        Path(folder, RECORD).unlink(missing_ok=True)
        return
    with atomic(Path(folder, RECORD)) as temporary:
        temporary.write_bytes("".join(f"{name}\n" for name in sorted(names)).encode("utf-8", "surrogateescape"))


def claim_table(path, columns, ours=False):
    """claim_file() of a CSV file: what is there is replaced only where it begins with these columns, texts."""
    path = Path(path)
    if path.suffix.lower() != ".csv":
        raise Problem(f"{path} is to be a table: choose a name that ends in .csv")
    begins = False
    if path.is_file():
        with open(path, "rb") as file:
            first = file.readline().strip()
        begins = first == ",".join(columns).encode()
        if first and not begins:
            raise Problem(f"{path} is there already, and is another table or text: move it away, or name another place")
    claim_file(path, ours and begins)


def same_file(one, other):
    """Whether two paths lead to one file that is there."""
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False


def remove_ours(folder, names):
    """Delete those of the files `names` in `folder` that are ours, and folders that get empty; returns how many."""
    folder, known = Path(folder), written(folder)
    ours, count = known.intersection(names), 0
    for name in ours:
        with contextlib.suppress(FileNotFoundError):
            (folder / name).unlink()
            count += 1
    inner = {name.rpartition("/")[0] for name in ours} - {""}
    for place in sorted({place for name in inner for place in (Path(name), *Path(name).parents)}, reverse=True):
        if place != Path("."):
            sweep(folder / place)
            with contextlib.suppress(OSError):  # something that is not ours is left in it
                (folder / place).rmdir()
    if ours:
        write_record(folder, known - ours)
    return count


def check_apart(**places):
    """End the program where one of the folders or files {name of its constant: path} is another, or lies inside it.

    Links are followed, and a and A are one name, as on many disks.
    """
    found = {name: Path(os.path.realpath(path)) for name, path in places.items()}
    for (one, inner), (other, outer) in itertools.permutations(found.items(), 2):
        for place in (inner, *inner.parents):
            if normal(str(place)).casefold() == normal(str(outer)).casefold() or same_file(place, outer):
                fail(f"{one}={places[one]} and {other}={places[other]} must lie apart, not one inside the other: name "
                     "another place")


def sweep(folder):
    """Delete what atomic() left in `folder` when a program was killed, where it is an hour old and so not in use."""
    for path in Path(folder).glob(".tmp-*"):
        with contextlib.suppress(OSError):
            if re.fullmatch(TEMPORARY, path.name) and time.time() - path.stat().st_ctime > 3600:
                path.unlink()


def link(source, target):
    """Make `target` a hard link to `source`, or to what that links to; a copy where links cannot be made.

    A file that is there is replaced: the caller has made sure that it is ours.
    """
    source = os.path.realpath(source)
    if same_file(source, target) and not os.path.islink(target):
        return
    with contextlib.suppress(FileNotFoundError):
        os.unlink(target)
    try:
        os.link(source, target)
    except OSError:
        with atomic(target) as temporary:
            shutil.copyfile(source, temporary)


def is_system(name):
    """Whether a file or folder is one that systems, drives or editors leave everywhere."""
    return name.startswith(".") or name.lower() in SYSTEM_NAMES


def normal(name, form="NFC"):
    """A name in one Unicode form: some systems write ñ as one character, others as n and a tilde."""
    return unicodedata.normalize(form, name)


def class_folders(folder, fill_hint):
    """{class: [its folders]}, sorted; a class is a normal() name, and has two folders where both forms of it are there.

    No `folder`, or a name in it that is not UTF-8 or UNSURE, ends the program.
    """
    folder, found = Path(folder), {}
    if not folder.is_dir():
        fail(f"there is no folder {folder}: {fill_hint}")
    for path in sorted(p for p in folder.iterdir() if p.is_dir() and not is_system(p.name)):
        if os.fsencode(path.name).decode("utf-8", "replace") != path.name:
            fail(f"the name of the class folder {path} is no text in UTF-8: rename it")
        if normal(path.name).casefold() == UNSURE:
            fail(f"the class folder {path} is named as what is said of a face that is not sure: rename it")
        found.setdefault(normal(path.name), []).append(path)
    return dict(sorted(found.items()))


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


CLAIMED = {}  # {folder: names} of this run
script.AT_END.append(settle)
UMASK = _umask()  # mkstemp makes private files; ours are as readable as any other file of the user
