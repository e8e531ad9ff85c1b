"""Files that are whole or not there, the record of what is ours, hard links, class folders. Nothing to run.

Nothing that is not ours is ever removed or written over. What is ours says a record: each folder that a script writes
into has a text file RECORD, in which the names of its files stand before they are written.
"""

import contextlib
import os
import shutil
import tempfile
import time
import unicodedata
from pathlib import Path

from terminal.script import Problem, fail

RECORD = ".written.txt"  # in a folder: the files in it, and below it, that scripts of this project have written

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
        text = Path(folder, RECORD).read_text(encoding="utf-8", errors="surrogateescape")
    except (FileNotFoundError, NotADirectoryError):
        return set()
    return set(text.split("\n")) - {""}


def claim(folder, names):
    """Make `folder`, and note that the files `names` in it (relative, with "/" between folders) are ours from now on.

    To be called before any work starts. Raises Problem, one line, where one of them is there and is not ours, or is a
    folder, and where `folder` is a file or cannot be written.
    """
    folder, names = Path(folder), list(names)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise Problem(f"{folder} is a file, or lies below one, and is to be a folder: name another") from None
    except OSError as error:
        raise Problem(f"{folder} cannot be made ({error.strerror}): name another folder") from None
    known = written(folder)
    for name in names:
        path = folder / name
        if os.path.lexists(path) and (name not in known or path.is_dir()):
            raise Problem(f"{path} is there already, and this project has not written it: move it away, or name "
                          "another place")
    new = [name for name in dict.fromkeys(names) if name not in known]
    try:
        with open(folder / RECORD, "a", encoding="utf-8", errors="surrogateescape", newline="\n") as file:
            file.writelines(f"{name}\n" for name in new)
        if not os.access(folder, os.W_OK):
            raise PermissionError(13, "it is read-only")
    except OSError as error:
        raise Problem(f"{folder} cannot be written ({error.strerror}): name another folder") from None


def claim_file(path):
    """claim() of one file, with or without folders before its name."""
    path = Path(path)
    claim(path.parent, [path.name])


def remove_ours(folder, names):
    """Delete those of the files `names` in `folder` that are ours, and then folders that are empty; returns how many.

    A file that is not ours stays, and so does what is left of a link to one.
    """
    folder, known = Path(folder), written(folder)
    ours, count = [name for name in names if name in known], 0
    for name in ours:
        with contextlib.suppress(FileNotFoundError):
            (folder / name).unlink()
            count += 1
    for inner in sorted({parent for name in ours for parent in Path(name).parents}, reverse=True):
        if inner != Path("."):
            sweep(folder / inner)
            with contextlib.suppress(OSError):  # something that is not ours is left in it
                (folder / inner).rmdir()
    gone = set(ours)
    with atomic(folder / RECORD) as temporary:
        temporary.write_text("".join(f"{name}\n" for name in sorted(known - gone)), encoding="utf-8",
                             errors="surrogateescape", newline="\n")
    return count


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
