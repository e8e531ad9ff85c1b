"""Shared by all scripts: one-line errors, stops, exit status. Nothing to run.

Scripts import this module first, and it imports only the standard library, so that Ctrl-C during the import of PyTorch,
which takes seconds, is one line too.
"""

from terminal import stops  # isort: skip  # first, since it handles Ctrl-C

import contextlib
import errno
import os
import re
import shlex
import sys
from pathlib import Path

# Relative paths in a script are relative to this folder: the project's, or FACES_HOME in the environment.
HOME = Path(os.environ.get("FACES_HOME") or Path(__file__).resolve().parent.parent)
LONGEST = 259  # maximum letters of a path on Windows, unless long paths are enabled there
AT_END = []  # functions that run() always calls at the end, the last one first


class Problem(ValueError):
    """An error that the user can mend: run() prints its message, one line, instead of a traceback."""


def fail(message):
    """End the program with one line on stderr and exit status 1. The line says what is wrong and what to do."""
    # An https address without a query or a user is shown whole; others may contain a secret.
    line = re.sub("[\r\n\t]+ *", " ", str(message)).strip()
    words = [word if re.search("https://[^@?]+$", word) else public(word) for word in line.split(" ")]
    raise SystemExit(f"error: {slashed(' '.join(words))}")


def slashed(text, windows=os.name == "nt"):
    """A text with slashes in Windows paths, as in scripts and documents, since all shells accept them: data/raw for
    data\\raw. Backslashes that repr() has doubled stay."""
    return re.sub(r"(?<=[^\s\\])\\(?=[^\s\\])", "/", text) if windows else text


def public(text):
    """A text with only scheme, host and port of addresses: rtsp://me:secret@host:554/... -> rtsp://host:554.

    Addresses of cameras may have passwords and keys before the host, in the path or after a question mark.
    """
    return re.sub(r"(\w[\w+.-]*://)([^\s'\"]*)", lambda found: found[1] + host(found[2]), text)


def host(rest):
    """The host and port of an address without its scheme. A password may contain slashes, question marks and @."""
    first = re.split(r"[/?#;]", rest)[0]
    if "@" in rest and not re.fullmatch(r"([\w-]+\.)+[\w-]+(:\d+)?|localhost(:\d+)?|\[[\da-fA-F:]+\](:\d+)?", first):
        first = re.split(r"[/?#;]", rest.rpartition("@")[2])[0]
    return re.sub(r":(?!\d+$)[^:\]]*$", "", first)  # me:secret, if the host is missing


def command_line(*words):
    """A command to be typed, with quotes for the shell if necessary; on Windows for both cmd and PowerShell."""
    if os.name == "nt":
        return " ".join(word if re.fullmatch(r"[\w./:=+-]+", word) else f'"{word}"' for word in words)
    return shlex.join(words)


def run(main, stopped="run the same command again to continue"):
    """Run a script's main(): a stop (see stops.py), a full disk and similar errors become one line and an exit status.

    `stopped`: what to print after a stop, about how to continue, or a function that returns it. In a notebook or
    another program, the working folder and the handler of Ctrl-C are restored.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a notebook's stream has no such method
            # Otherwise a photo's name may give a traceback on a Windows console with a legacy code page.
            stream.reconfigure(errors="replace")
    folder = os.getcwd()
    with stops.handled():
        try:
            os.chdir(HOME)
            try:
                with stops.at_work():
                    status = main()
            finally:
                for end in reversed(AT_END.copy()):
                    end()
            sys.exit(status)
        except (KeyboardInterrupt, Exception) as error:
            end_in_one_line(error, stopped)
            raise
        finally:
            if not stops.IS_PROGRAM:
                os.chdir(folder)


def end_in_one_line(error, stopped):
    """End the program with one line after a stop, or an error that the user can mend; returns after any other error.
    `stopped`: see run()."""
    if isinstance(error, KeyboardInterrupt):
        stop(stopped)
    if isinstance(error, Problem):
        fail(error)
    if isinstance(error, BrokenPipeError):
        # The reader of the output has ended (`| head`), so nothing more can be printed.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    if isinstance(error, OSError):
        if os.name == "nt" and error.errno == errno.EINVAL and not error.filename:
            sys.exit(1)  # a broken pipe on Windows
        fail(explained(error))
    line = known_cause(error)
    if line:
        fail(line)
    if stops.came:
        stop(stopped)  # e.g. an error since another process of a training was stopped first


def known_cause(error):
    """A line for an error of Python, PyTorch or OpenCV that the user can mend, or None."""
    if isinstance(error, RecursionError):  # mkdir() and, before Python 3.12, os.walk()
        return "folders are nested too deeply: use a place with fewer folders around it"
    return "out of memory: close other programs or lower BATCH_SIZE" if out_of_memory(error) else None


def explained(error):
    """A line for an OSError, with what to do."""
    name = str(error.filename or "")
    where = f" ({name})" if name else ""
    if os.name == "nt" and isinstance(error, FileNotFoundError) and len(os.path.abspath(name)) > LONGEST:
        return f"a path has more than {LONGEST} letters{where}, too many for Windows: move its folders up"
    return f"{error.strerror or error}{where}: free some space or check the folder's permissions, then run again"


def out_of_memory(error):
    """Whether an error means that Python, PyTorch on a CPU or a GPU, or OpenCV is out of memory."""
    said = ("DefaultCPUAllocator: can't allocate", "not enough memory: you tried to allocate", "Insufficient memory")
    named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return named or any(text in str(error) for text in said)


def stop(stopped):
    """End the program after a stop, with one line. `stopped`: see run()."""
    if callable(stopped):
        stopped = stopped()
    with contextlib.suppress(OSError):  # the terminal was closed
        print(f"\nstopped by {stops.name()}: {stopped}", file=sys.stderr, flush=True)
    sys.exit(stops.status())


# OpenCV reads this variable when it is imported. Without it, opening a camera on Windows can take a minute.
os.environ.setdefault("OPENCV_VIDEOIO_MSMF_ENABLE_HW_TRANSFORMS", "0")
if stops.IS_PROGRAM:
    if sys.getfilesystemencoding() != "utf-8":  # LC_ALL=C with PYTHONUTF8=0; file names are in UTF-8 nevertheless
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])
    try:
        os.getcwd()
    except OSError:
        fail("the working folder does not exist any more: change to another one, and run the command again")
