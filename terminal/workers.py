"""Work on all cores, in processes that end when they should. Nothing to run."""

import collections
import contextlib
import itertools
import multiprocessing
import os
import signal
import sys
import threading
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import cv2

from terminal import script


def quiet_worker():
    """One OpenCV thread a process (the processes fill the cores); Ctrl-C is the parent's to handle."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(1)
    threading.Thread(target=leave_with_parent, daemon=True).start()


def leave_with_parent():
    """A process whose parent was killed would wait for work for ever."""
    multiprocessing.parent_process().join()
    os._exit(1)


def in_background(function, *arguments):
    """A Future of function(*arguments), from a thread that the program does not wait for when it ends."""
    future = Future()

    def work():
        try:
            future.set_result(function(*arguments))
        except BaseException as error:  # whoever asks for the result gets it, SystemExit too
            future.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    return future


@contextlib.contextmanager
def leaving_threads():
    """Where the block ends the program, threads of in_background() that are still at work are left behind: a camera's
    driver may hold one for ever, and a half-loaded PyTorch would crash while Python takes itself apart.
    """
    try:
        yield
    except SystemExit as stop:
        if not any(thread.daemon for thread in threading.enumerate()):
            raise
        status = stop.code or 0
        with contextlib.suppress(OSError):  # nobody reads any more
            if isinstance(status, str):
                print(status, file=sys.stderr)
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status if isinstance(status, int) else 1)


def in_processes(function, jobs, workers):
    """Yield function(job) for each job, in order, from `workers` processes; only a few jobs ahead of the reader.

    A process that is ended from outside ends the program with one line (multiprocessing.Pool would wait for ever).
    """
    jobs = iter(jobs)
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), quiet_worker)
    try:
        # Processes inherit it: those that still start up must not answer Ctrl-C with a traceback each.
        handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            ahead = collections.deque(pool.submit(function, job) for job in itertools.islice(jobs, 64 + workers))
        finally:
            signal.signal(signal.SIGINT, handler)
        while ahead:
            result = ahead.popleft().result()
            ahead.extend(pool.submit(function, job) for job in itertools.islice(jobs, 1))
            yield result
    except BrokenProcessPool:
        script.fail("a process was ended from outside, likely for want of memory: run the same command again, "
                    "with WORKERS=1 if it happens again")
    finally:
        pool.shutdown(cancel_futures=True)
