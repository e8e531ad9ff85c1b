"""Writes files whole, records which files are ours, and makes hard links. Nothing to run.

Each folder into which a script writes has a text file RECORD. Names of files are added to it before the files are
written. Only files that it names are ever replaced or deleted, and never files behind a link.
"""

import contextlib
import ctypes
import functools
import hashlib
import itertools
import os
import re
import secrets
import shutil
import stat
import time
import unicodedata
from collections import defaultdict
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

from terminal import script, stops
from terminal.script import Problem, fail

RECORD = ".written.txt"  # in a folder: the names of the files in and below it that this project's scripts have written
RECIPE = ".recipe"  # in a folder of crops: how processed.py made them
SPLIT = ".split.json"  # in both folders of a split: its settings, and whether it is complete
MARKS = {RECIPE, SPLIT}  # a folder with one of these files belongs to that script only
UNSURE = "unsure"  # label of a face below the threshold, so no class can have this name
TEMPORARY = re.compile(r"\.tmp-[0-9a-f]{8}-([0-9a-f]{16})")  # beginning of the names by temporary()
# Seconds after which a half-written file counts as left by a killed program: on disks with locks, if it is not locked;
# on disks without locks, and on Windows.
UNLOCKED, UNUSED = 1, 3600
BUSY = 5.0  # seconds to wait for a file that another program holds open
# Folders that the steps or the user write for the next step: {constant: default}. The steps repeat their own at their
# top, where users edit them; the importers take theirs from here.
PLACES = {"RAW_DIR": "data/raw", "TEST_DIR": "data/test", "FACES_DIR": "processed/faces",
          "TRAIN_DIR": "processed/train", "VALID_DIR": "processed/valid", "WEIGHTS_DIR": "weights"}
CODE = (".git", ".github", "docs", "faces", "judge", "learn", "live", "terminal", "tests", "tools")  # of this project
JUNCTION = 0xA0000003  # reparse tag of a junction, a link to a folder on Windows
CLAIMED = {}  # {absolute path of a folder: the names that this run has claimed in it}

SYSTEM_NAMES = {"__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "picasa.ini", "$recycle.bin",
                "system volume information", "recycler", "lost+found", "found.000", "@eadir", "#recycle", "#snapshot"}


@contextlib.contextmanager
def atomic(path):
    """Yield a temporary Path beside `path`, which replaces `path` if the block raises no error, else is removed.

    The new file gets the permissions and the owner of the old one. Raises Problem, see check_replaceable(). Creates the
    folder, but raises Problem if this run has claimed it, since it has disappeared, maybe with its drive.
    """
    path = Path(path)
    check_replaceable(path)
    if not path.parent.is_dir():
        if any(not folder.is_dir() for folder in CLAIMED.keys() & set(path.absolute().parents)):
            raise gone(path.parent)
        path.parent.mkdir(parents=True, exist_ok=True)
    before = path.stat() if path.is_file() else None
    new = temporary(path)
    try:
        mode = 0o666
        if before is not None:  # a private file is never readable by others
            mode = (before.st_mode & 0o666) | 0o600
        os.close(os.open(new, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode))
        with locked(new):
            yield new
            if before is not None:
                keep_owner(new, before)
            replace(new, path)
    finally:
        new.unlink(missing_ok=True)


class Busy(Problem):
    """A file that another program holds open, so that it cannot be replaced or read on Windows."""


def patiently(action, path):
    """The result of action(), which needs the file `path`. On Windows it is retried for BUSY seconds if another
    program, such as Excel, an antivirus or another run, has the file open. Raises Busy, one line, if that does not
    help."""
    until = time.monotonic() + BUSY
    busy = [5, 32]  # values of winerror: access denied, used by another process
    if os.name == "nt":
        busy.append(None)  # open() gives no winerror, only errno 13
    while True:
        try:
            return action()
        except PermissionError as error:
            if getattr(error, "winerror", None) not in busy:
                raise
            if time.monotonic() > until:
                raise Busy(f"{path} is open in another program, and cannot be used: close it there, and run the same "
                           "command again") from None
            time.sleep(0.1)


def replace(new, path):
    """os.replace(), see patiently()."""
    patiently(lambda: os.replace(new, path), path)


@contextlib.contextmanager
def atomic_folder(path):
    """atomic() for a new folder: yields an empty folder, which gets the name `path` if the block raises no error."""
    new = temporary(path)
    try:
        new.mkdir()
        with locked(new):
            yield new
            replace(new, path)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def temporary(path):
    """A new Path beside `path`, with the same suffix; a digest in its name identifies `path`, see remove_stale()."""
    path = Path(path)
    suffix = path.suffix if len(os.fsencode(path.suffix)) < 20 else ""
    return path.with_name(f".tmp-{secrets.token_hex(4)}-{digest(path.name)}{suffix}")


def digest(name):
    """A digest of 16 characters of a name, or of a path within a folder, for the names of temporary files, and of crops
    of photos with long names."""
    return hashlib.sha256(os.fsencode(name)).hexdigest()[:16]


def safe_name(name):
    """A file or folder name that is valid on any disk and in a record: `name` itself, or a short one with a digest if
    `name` is not valid text, too long, or has a backslash or a line break."""
    text = os.fsencode(name).decode("utf-8", "ignore")
    if text == name and len(os.fsencode(name)) <= 255 and not set(name) & set("\\\r\n"):
        return name
    ending = Path(name).suffix if re.fullmatch(r"\.[a-zA-Z0-9]{1,9}", Path(name).suffix) else ""
    start = re.sub(r"[\\\r\n]", " ", text.removesuffix(ending)[:40])
    return f"{start or 'photo'}-{digest(name)}{ending}"


def keep_owner(new, before):
    """Give a file the owner and the permissions in `before`, an os.stat(), as far as the disk allows it."""
    if hasattr(os, "chown") and (before.st_uid, before.st_gid) != (os.stat(new).st_uid, os.stat(new).st_gid):
        with contextlib.suppress(OSError):
            os.chown(new, before.st_uid, before.st_gid)
    if os.stat(new).st_mode != before.st_mode:
        with contextlib.suppress(OSError):
            os.chmod(new, stat.S_IMODE(before.st_mode))


def gone(folder):
    """The Problem for a folder that has disappeared while a run writes into it."""
    return Problem(f"{folder} is gone: was its drive taken away, or the folder deleted? Run the same command again")


def check_replaceable(path):
    """Raise Problem if `path` is a read-only file, a device, a pipe or a folder."""
    path = Path(path)
    if path.is_file() and not path.stat().st_mode & 0o222:
        raise Problem(f"{path} is read-only: make it writable, move it away, or name another place")
    if path.exists() and not path.is_file():
        raise Problem(f"{path} is not a file: move it away, or name another place")


def is_link(path):
    """Whether a path is a symbolic link, or a junction of Windows."""
    try:
        status = os.lstat(path)
    except OSError:
        return False
    return stat.S_ISLNK(status.st_mode) or getattr(status, "st_reparse_tag", 0) == JUNCTION


def is_inner(name):
    """Whether a name in a record is one of a file in or below its folder; a stranger's record may contain anything."""
    parts = name.split("/")
    if os.name == "nt":
        if set(name) & set("\\:"):
            return False
        parts = [part.rstrip(". ") for part in parts]  # Windows ignores these characters at the end
    return "\0" not in name and not {"", ".", ".."}.intersection(parts)


def read_bytes(path):
    """The bytes of a file; None if there is none. Raises Problem if `path` is a link that leads nowhere, since its
    drive may not be plugged in, or is not a file: reading a pipe may never end."""
    path = Path(path)
    if path.is_file():
        return patiently(path.read_bytes, path)
    if is_link(path) and not path.exists():
        raise Problem(f"{path} is a link that leads nowhere: plug in its drive, or delete the link")
    if path.exists():
        raise Problem(f"{path} is not a file: move it away")
    return None


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


@contextlib.contextmanager
def locked(path, wait=True):
    """Context in which a file or folder is locked for other runs. Yields True; without `wait`, False if another run has
    locked it; None if the system or disk has no locks."""
    if fcntl is None:
        yield None
        return
    handle, mine = os.open(path, os.O_RDONLY), True
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            mine = False
        except OSError:
            mine = None
        yield mine
    finally:
        os.close(handle)


def alone(path):
    """Context in which no other run changes what belongs to `path`, a folder; this one waits for the others."""
    return mutex(path) if fcntl is None else locked(path)


@contextlib.contextmanager
def mutex(path):
    """Context of at most one thread of this Windows machine for each `path`. A mutex of a killed program is free.

    https://learn.microsoft.com/windows/win32/sync/using-mutex-objects
    """
    kernel32 = ctypes.WinDLL("kernel32")
    kernel32.CreateMutexW.restype = ctypes.c_void_p
    name = digest(os.path.realpath(path).casefold())
    handle = ctypes.c_void_p(kernel32.CreateMutexW(None, False, ctypes.c_wchar_p(name)))
    kernel32.WaitForSingleObject(handle, -1)  # -1: without a time limit
    try:
        yield
    finally:
        kernel32.ReleaseMutex(handle)
        kernel32.CloseHandle(handle)


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


def same_file(one, other):
    """Whether two paths lead to the same existing file."""
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False


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


def check_apart(**places):
    """End the program if one of the folders or files, {name of its constant: path}, is another one, or inside it.

    Links are followed, and case is ignored, as on many disks.
    """
    found = {name: Path(os.path.realpath(path)) for name, path in places.items()}
    for (one, inner), (other, outer) in itertools.permutations(found.items(), 2):
        for place in (inner, *inner.parents):
            if normal(str(place)).casefold() == normal(str(outer)).casefold() or same_file(place, outer):
                fail(f"{one}={places[one]} and {other}={places[other]} must be separate, not one inside the other: "
                     "name another place")


def check_classes_apart(name, folder, **places):
    """check_apart() for a folder with class folders, and for each of these that is a link. `name`: of its constant."""
    check_apart(**{name: folder}, **places)
    for path in Path(folder).glob("*"):
        if is_link(path):
            check_apart(**{f"{name}/{path.name}": path}, **places)


def check_outputs(settings, *names):
    """End the program if an output folder of a script is, contains or is in one of PLACES that is not its own, or CODE.
    `settings`: the script's globals(); `names`: its constants that name output folders."""
    others = {(name, name) for name in CODE}
    for name in PLACES.keys() - set(names):
        others.add((name, PLACES[name]))
        others.add((name, settings.get(name) or PLACES[name]))
    for name in names:
        for other, place in sorted(others):
            check_apart(**{name: settings[name], other: place})


def remove_stale(folder):
    """Delete files that atomic() left in and below `folder` when a program was killed: temporary files for names in the
    record that are not in use."""
    places = defaultdict(list)
    for name in written(folder) | {RECORD}:
        place, _, last = name.rpartition("/")
        places[place].append(last)
    for place, names in places.items():
        left = [path for path in Path(folder, place).glob(".tmp-*") if TEMPORARY.match(path.name) and not is_link(path)]
        known = set(map(digest, names)) if left else ()
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


def link(source, target):
    """Make `target` a hard link to `source`, or to the target of that link; a copy if the disk has no hard links.

    An existing `target` is replaced; the caller must make sure that it is ours.
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
    """Whether a file or folder is one that operating systems, drives or editors leave everywhere."""
    return name.startswith(".") or name.lower() in SYSTEM_NAMES


def normal(name, form="NFC"):
    """A name in one Unicode form, since some systems write ñ as one character, others as n and a tilde."""
    return unicodedata.normalize(form, name)


def walk(folder):
    """os.walk(); nothing if `folder` does not exist. Raises Problem if a folder in it cannot be read, since its files
    must not count as deleted."""
    def refuse(error):
        raise Problem(f"{error.filename} cannot be read ({error.strerror}): make it readable, plug in its drive, or "
                      "move it away")

    if os.path.isdir(folder):
        yield from os.walk(folder, onerror=refuse)


script.AT_END.append(release_unwritten)
