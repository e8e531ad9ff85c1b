"""Ctrl-C, SIGTERM (docker stop, timeout) and SIGHUP (a closed terminal): one way to stop. Nothing to run.

While a script's main() is at work, the first of them is a KeyboardInterrupt in the main thread. Those that follow are
only noted, so that nothing interrupts the clean-up. Before main() and after it, when nothing can be lost, a stop ends
the program at once. A signal that is ignored, as by nohup, or as Ctrl-C is by what a shell starts with &, stays so.

terminal/script.py imports this module first, and it imports little: before that, Ctrl-C is a traceback.
"""

import atexit
import builtins
import contextlib
import errno
import os
import signal
import sys
import threading

# SIGBREAK is Ctrl-Break, of Windows, which has no SIGHUP.
SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK") if hasattr(signal, name)]

came = []  # numbers of the signals that have come, in order
working = False  # whether the next one interrupts main()
held = 0  # so many blocks of later() are under way
code = None  # the exit status, when a script is at its end


def name():
    """What stopped the program, as people call it."""
    number = came[0] if came else signal.SIGINT
    return "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name


def status():
    """The exit status of a program that was stopped, as shells have it."""
    return 128 + (came[0] if came else signal.SIGINT)


def leave(number, frame):
    """Handler where nothing is under way that could be lost: one line, and the status. When a script is at its end, as
    where it waits for threads, its own status without a word."""
    if code is None:
        came.append(number)
        with contextlib.suppress(OSError):  # the terminal is gone
            os.write(2, f"\nstopped by {name()}\n".encode())
    with contextlib.suppress(Exception):  # of what was printed, the last may still be on its way
        sys.stdout.flush()
    os._exit(status() if code is None else code)


def answer(number, frame):
    """Handler while a script runs."""
    came.append(number)
    if number == getattr(signal, "SIGHUP", None):
        silence_terminals()
    if working and not held:
        interrupt()


def interrupt():
    """Stop main(), once."""
    global working
    working = False
    raise KeyboardInterrupt


def silence_terminals():
    """What is said to a terminal that is closed goes nowhere, instead of being an error amid the clean-up."""
    for stream in (1, 2):
        try:
            os.get_terminal_size(stream)
        except OSError as error:
            if error.errno != errno.EIO:  # it is a file or a pipe
                continue
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream)


@contextlib.contextmanager
def handled():
    """In this block stops are noted; the handlers of before come back after it.

    In a notebook, or in a program that runs a script, Ctrl-C alone is handled, and in a thread nothing is.
    """
    global held, code
    came.clear()
    held, code = 0, None
    mine = SIGNALS if IS_PROGRAM else [signal.SIGINT]
    before = handlers(mine) if threading.current_thread() is threading.main_thread() else {}
    for number in before:
        signal.signal(number, answer)
    try:
        yield
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def handlers(numbers):
    """{signal: its handler} of those that are not ignored, nor handled by another than Python."""
    found = {number: signal.getsignal(number) for number in numbers}
    return {number: handler for number, handler in found.items() if handler not in (signal.SIG_IGN, None)}


@contextlib.contextmanager
def at_work():
    """In this block, main() at work, the first stop is a KeyboardInterrupt."""
    global working
    working = True
    try:
        yield
    finally:
        working = False


@contextlib.contextmanager
def later():
    """A stop waits for the end of this block."""
    global held
    if threading.current_thread() is not threading.main_thread():  # which no stop interrupts
        yield
        return
    held += 1
    try:
        yield
    finally:
        held -= 1
    if came and working and not held:
        interrupt()


def ignore():
    """Ignore stops: after the last line of Python libraries still take a while to end, and the status is said."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def open_streams():
    """Input, output and errors that are closed (>&-, or pythonw of Windows) lead nowhere from now on. Else the next
    file that is opened would get their number, and what libraries say there would go into it."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            os.dup2(null, number)  # processes that are started have it, too
            if null > 2:
                os.close(null)
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w", encoding="utf-8"))  # noqa: SIM115


def is_program():
    """Whether Python was started to run one of our scripts, and not a notebook, a test or another program with it."""
    started, main = sys.orig_argv[1:], sys.modules["__main__"]
    path, module = getattr(main, "__file__", None), getattr(main, "__spec__", None)
    if not path or sys.flags.interactive or hasattr(builtins, "get_ipython"):
        return False
    path, home = os.path.realpath(path), os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
    named = module.name in started if module else any(os.path.realpath(part) == path for part in started)
    return named and os.path.dirname(path) in (home, os.path.join(home, "data"), os.path.join(home, "tools"))


open_streams()
IS_PROGRAM = is_program()
if IS_PROGRAM:
    for each in handlers(SIGNALS):
        signal.signal(each, leave)  # until run() takes over: a stop while PyTorch is imported is one line
    atexit.register(ignore)
