"""Work on all cores, or on many machines, by joblib; and in the background. Nothing to run."""

import contextlib
import ctypes
import importlib
import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from concurrent.futures import Future
from multiprocessing import resource_tracker
from pathlib import Path

import cv2

from terminal import script, stops

BACKENDS = ("loky", "dask", "ray")  # of joblib: this machine's cores, or a cluster of machines with one shared disk
# joblib's process that cleans up takes what Ctrl-C has removed for lost, and would warn of it.
TRACKER = "ignore:resource_tracker"
AHEAD = 256  # jobs a process that may be done before their results are asked for: memory
END = object()


def cores():
    """The number of cores that this program may use: containers and schedulers give fewer than there are."""
    import joblib  # a tenth of a second, and the live window needs it not

    return joblib.cpu_count()


def start_worker(parent):
    """One OpenCV thread a process, since the processes fill the cores; stops are the parent's to handle, and where that
    (a process number) was killed, its processes end too."""
    for number in stops.SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    cv2.setNumThreads(1)

    def leave_with_parent():
        if os.name == "nt":  # where the number of a parent stays as it was
            multiprocessing.parent_process().join()
        while os.getppid() == parent and os.name != "nt":
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=leave_with_parent, daemon=True).start()


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
    """Where the block ends the program, threads still at work are left behind: a camera's driver may hold one for ever,
    and a half-loaded PyTorch would crash while Python ends. A notebook that runs a script goes on."""
    try:
        yield
    except SystemExit as stop:
        if not stops.IS_PROGRAM or not any(thread.daemon for thread in threading.enumerate()):
            raise
        status = stop.code or 0
        with contextlib.suppress(OSError):  # nobody reads any more
            if isinstance(status, str):
                print(status, file=sys.stderr)
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status if isinstance(status, int) else 1)


def connected(backend):
    """A context in which joblib works with one of BACKENDS; on which machines, its own settings state, such as
    DASK_SCHEDULER_ADDRESS and RAY_ADDRESS."""
    try:
        if backend == "dask":
            from dask.distributed import Client

            client = Client()
            client.run(importlib.import_module, "faces")  # joblib would wait for ever for workers that have it not
            return client
        if backend == "ray":
            from ray.util.joblib import register_ray

            register_ray()
    except (ImportError, OSError) as error:
        script.fail(f"BACKEND={backend}: {error}; it must be installed, and its workers be started in this project's "
                    "folder")
    return contextlib.nullcontext()


def in_processes(function, jobs, workers, backend="loky"):
    """Yield function(job) for each job, in order, from `workers` processes of one of joblib's BACKENDS.

    A process that is ended from outside ends the program with one line. However this ends, no job is under way then:
    those at hand are finished, so that no file is written any more, or left half written.
    """
    import joblib
    from joblib.externals.loky.process_executor import BrokenProcessPool

    if function.__module__ == "__main__":
        # By its module's name, as the processes import it: else joblib would send its code with each job.
        module = importlib.import_module(Path(sys.modules["__main__"].__file__).stem)
        function = getattr(module, function.__name__)
    jobs, results, ended = iter(jobs), iter(()), False
    if TRACKER not in sys.warnoptions:
        sys.warnoptions.append(TRACKER)
    settings = {"initializer": start_worker, "initargs": (os.getpid(),)} if backend == "loky" else {}

    def tasks(ahead):  # joblib takes them when a process is free
        for job in ahead:
            if ended:
                return
            yield joblib.delayed(attempt)(function, job)

    def finish():
        nonlocal ended
        ended = True
        with stops.later(), contextlib.suppress(BrokenProcessPool):
            for _ in results:
                pass

    script.AT_END.append(finish)  # where this generator is left alone, as by an error of who asks for the results
    try:
        with connected(backend), joblib.parallel_config(backend, **settings):
            # joblib would work through all jobs, whether their results are asked for or not.
            while ahead := list(itertools.islice(jobs, AHEAD * workers)):
                with stops.later(), without_stops():
                    results = joblib.Parallel(workers, return_as="generator")(tasks(ahead))
                yield from answers(results)
    except BrokenProcessPool:
        script.fail("a process was ended from outside, likely for want of memory: run the same command again, "
                    "with WORKERS=1 if it happens again")
    finally:
        finish()
        script.AT_END.remove(finish)


def attempt(function, job):
    """Worker: (function(job), None), or (None, the error and its traceback), since at an error joblib would kill the
    other processes in the midst of their work."""
    try:
        return function(job), None
    except BaseException as error:
        return None, (error, traceback.format_exc())


def answers(results):
    """Yield the answers of attempt() without their errors, which are raised here. A stop comes between two of them:
    joblib must not be interrupted."""
    while True:
        with stops.later():
            result = next(results, END)
        if result is END:
            return
        answer, problem = result
        if problem:
            raise problem[0] from RuntimeError(f"in a process:\n{problem[1]}")
        yield answer


@contextlib.contextmanager
def without_stops():
    """Processes started in this block never get a stop: their parent answers it, and waits for them."""
    if os.name == "nt":  # where processes inherit that Ctrl-C is ignored; the next press is answered again
        ctypes.windll.kernel32.SetConsoleCtrlHandler(None, True)
        try:
            yield
        finally:
            ctypes.windll.kernel32.SetConsoleCtrlHandler(None, False)
        return
    from joblib.externals.loky.backend import resource_tracker as another

    mask = signal.pthread_sigmask(signal.SIG_BLOCK, stops.SIGNALS)
    for tracker in (resource_tracker, another):
        tracker.ensure_running()  # where one is started, Python lets signals through again
        signal.pthread_sigmask(signal.SIG_BLOCK, stops.SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def run_program(*command):
    """Run another program to its end, and return its exit status. A stop is passed on to it, and waited for."""
    with subprocess.Popen(command) as process:
        try:
            return process.wait()
        except KeyboardInterrupt:
            if os.name != "nt":  # where Ctrl-C reaches both, and to end a process is to kill it
                process.terminate()
            process.wait()
            raise
