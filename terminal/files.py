"""Files that are whole or not there, hard links, class folders. Nothing to run."""

import contextlib
import os
import shutil
import tempfile
import time
import unicodedata
from pathlib import Path

from terminal.script import fail

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


def sweep(folder):
    """Delete what atomic() left in `folder` when a program was killed; nothing younger than an hour, maybe in use."""
    for path in Path(folder).glob(".tmp-*"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_ctime > 3600:
                path.unlink()


def link(source, target):
    """Make `target` the same file as `source` without using space (hard link), or a copy where links can't be."""
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


def normal(name):
    """A name in the one form in which names are compared: some systems write ñ as one sign, others as n and a tilde."""
    return unicodedata.normalize("NFC", name)


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


UMASK = _umask()  # mkstemp makes private files; ours are as readable as any other file of the user
