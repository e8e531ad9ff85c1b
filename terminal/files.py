"""Files that are whole or not there, the record of what is ours, hard links, class folders. Nothing to run.

Nothing that is not ours is ever removed or written over. What is ours says a record: each folder that a script writes
into has a text file RECORD, in which the names of its files stand before they are written. At the end of a run those
that it has not written leave it again.
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
MARKS = {RECIPE, SPLIT}  # a folder with one of them holds what its script puts there, and nothing of the other scripts
TEMPORARY = r"\.tmp-[a-z0-9_]{8}(\.\w+)?"  # names that atomic() gives

SYSTEM_NAMES = {"__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "picasa.ini", "$recycle.bin",
                "system volume information", "recycler", "lost+found", "found.000", "@eadir", "#recycle", "#snapshot"}


@contextlib.contextmanager
def atomic(path):
    """Yield a temporary Path beside `path`; it replaces `path` when the block ends well, and is removed otherwise.

    A reader therefore sees the old file or the new one, never half of one, whatever stops the program.
    """
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

    To be called before any work starts. Raises Problem, one line, where one of them is there and is not ours, or lies
    behind a link, and where `folder` is a file, cannot be written or is marked as another script's; nothing has changed
    then. `ours`: names that count as ours although no record says so, because an earlier version kept none.
    """
    folder, names = Path(folder), list(names)
    if os.path.lexists(folder) and not folder.is_dir():
        raise Problem(f"{folder} is a file and is to be a folder: name another")
    for inner in sorted({name.rpartition("/")[0] for name in names} - {""}):
        for place in (folder / inner, *Path(folder, inner).parents):
            if place == folder:
                break
            if place.is_symlink() or os.path.lexists(place) and not place.is_dir():
                raise Problem(f"{place} is a link or a file and is to be a folder: move it away, or name another place")
    recorded = written(folder)
    if recorded and MARKS & recorded != MARKS.intersection(names):
        raise Problem(f"{folder} is where another script has put its files: name another folder")
    known = recorded | set(ours)
    taken = [name for name in names if name not in known and os.path.lexists(folder / name)]
    # A second run may have claimed them meanwhile, and some disks take a and A for one name.
    known |= written(folder) if taken else set()
    for name in taken:
        if name not in known and not any(same_file(folder / name, folder / other) for other in known
                                         if other.casefold() == name.casefold()):
            raise Problem(f"{folder / name} is there already, and this project has not written it: move it away, or "
                          "name another place")
    if any("\n" in name for name in names):
        raise Problem(f"the name {next(name for name in names if chr(10) in name)!r} has a line break: rename it")
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


def claim_file(path, ours=False):
    """claim() of one file, with or without folders before its name. `ours`: it counts as ours without a record."""
    path = Path(path)
    claim(path.parent, [path.name], [path.name] * ours)


def settle():
    """At the end of a run: of the files that it has claimed, those that are there stay in the records, and no others.

    So a file of the user's that gets such a name later is not taken for ours.
    """
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
    """Delete those of the files `names` in `folder` that are ours, and then folders that are empty; returns how many.

    A file that is not ours stays. A name that is gone counts as ours no longer.
    """
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

    Links count as what they lead to, and a and A as one name, as many disks have it.
    """
    found = {name: Path(os.path.realpath(path)) for name, path in places.items()}
    for (one, inner), (other, outer) in itertools.permutations(found.items(), 2):
        for place in (inner, *inner.parents):
            if normal(str(place)).casefold() == normal(str(outer)).casefold() or same_file(place, outer):
                fail(f"{one}={places[one]} and {other}={places[other]} must lie apart, not one inside the other: name "
                     "another place")


def sweep(folder):
    """Delete what atomic() left in `folder` when a program was killed; nothing younger than an hour, maybe in use."""
    for path in Path(folder).glob(".tmp-*"):
        with contextlib.suppress(OSError):
            if re.fullmatch(TEMPORARY, path.name) and time.time() - path.stat().st_ctime > 3600:
                path.unlink()


def link(source, target):
    """Make `target` the same file as `source` without using space (hard link), or a copy where links can't be.

    A file that is there already is replaced: whoever calls this has made sure that it is ours. Of a source that is a
    link, what it leads to is taken.
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
    """Whether a file or folder is one that a system, a drive or an editor leaves everywhere: nothing of the user's."""
    return name.startswith(".") or name.lower() in SYSTEM_NAMES


def classes_of(folder, fill_hint):
    """Sorted names of the subfolders of `folder`, one a class; fewer than two end the program.

    `fill_hint` is the command, or the action, that fills the folder.
    """
    names = list(class_folders(folder, fill_hint))
    if len(names) < 2:
        fail(f"{folder} has {len(names)} class folder(s) and needs at least two: {fill_hint}")
    return names


def normal(name, form="NFC"):
    """A name in the one form in which names are compared: some systems write ñ as one sign, others as n and a tilde."""
    return unicodedata.normalize(form, name)


def class_folders(folder, fill_hint):
    """{class: [its folders]}, sorted: the subfolders of `folder` but those of systems. A class is a normal() name, and
    has two folders where both forms of it are there. No folder, or a name that is no text, ends the program.
    """
    folder, found = Path(folder), {}
    if not folder.is_dir():
        fail(f"there is no folder {folder}: {fill_hint}")
    for path in sorted(p for p in folder.iterdir() if p.is_dir() and not is_system(p.name)):
        if os.fsencode(path.name).decode("utf-8", "replace") != path.name:
            fail(f"the name of the class folder {path} is no text in UTF-8: rename it")
        found.setdefault(normal(path.name), []).append(path)
    return dict(sorted(found.items()))


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


CLAIMED = {}  # {folder: names} of this run
script.AT_END.append(settle)
UMASK = _umask()  # mkstemp makes private files; ours are as readable as any other file of the user
