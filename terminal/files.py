"""Reads and writes files whole, locks them, and makes hard links. Nothing to run."""

import contextlib
import ctypes
import os
import re
import secrets
import shutil
import stat
import time
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

from terminal.names import name_digest
from terminal.script import Problem

TEMPORARY = re.compile(r"\.tmp-[0-9a-f]{8}-([0-9a-f]{16})")  # beginning of the names by temporary()
BUSY = 5.0  # seconds to wait for a file that another program holds open
JUNCTION = 0xA0000003  # reparse tag of a junction, a link to a folder on Windows
CLAIMED = {}  # {absolute path of a folder: the names that this run has claimed in it}


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
    return path.with_name(f".tmp-{secrets.token_hex(4)}-{name_digest(path.name)}{suffix}")


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
    name = name_digest(os.path.realpath(path).casefold())
    handle = ctypes.c_void_p(kernel32.CreateMutexW(None, False, ctypes.c_wchar_p(name)))
    kernel32.WaitForSingleObject(handle, -1)  # -1: without a time limit
    try:
        yield
    finally:
        kernel32.ReleaseMutex(handle)
        kernel32.CloseHandle(handle)


def same_file(one, other):
    """Whether two paths lead to the same existing file."""
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False


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


def walk(folder):
    """os.walk(); nothing if `folder` does not exist. Raises Problem if a folder in it cannot be read, since its files
    must not count as deleted."""
    def refuse(error):
        raise Problem(f"{error.filename} cannot be read ({error.strerror}): make it readable, plug in its drive, or "
                      "move it away")

    if os.path.isdir(folder):
        yield from os.walk(folder, onerror=refuse)
