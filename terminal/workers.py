"""Work on all cores, or on many machines, by joblib; and in the background. Nothing to run."""

import contextlib
import importlib
import itertools
import os
import signal
import sys
import threading
import time
import warnings
from concurrent.futures import Future
from pathlib import Path

import cv2

from terminal import script

BACKENDS = ("loky", "dask", "ray")  # of joblib: this machine's cores, or a cluster of machines with one shared disk
# joblib's process that cleans up takes what Ctrl-C has removed for lost, and would warn of it.
TRACKER = "ignore:resource_tracker"
AHEAD = 256  # jobs a process that may be done before their results are asked for: memory


def start_worker(parent):
    """One OpenCV thread a process, since the processes fill the cores; Ctrl-C is the parent's to handle, and where that
    (a process number) was killed, its processes end too."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(1)

    def leave_with_parent():
        while os.getppid() == parent:
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
        if not script.IS_PROGRAM or not any(thread.daemon for thread in threading.enumerate()):
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

    A process that is ended from outside ends the program with one line.
    """
    import joblib  # a tenth of a second, and the live window needs it not
    from joblib.externals.loky.process_executor import BrokenProcessPool

    if function.__module__ == "__main__":
        # By its module's name, as the processes import it: else joblib would send its code with each job.
        module = importlib.import_module(Path(sys.modules["__main__"].__file__).stem)
        function = getattr(module, function.__name__)
    jobs = iter(jobs)
    if TRACKER not in sys.warnoptions:
        sys.warnoptions.append(TRACKER)
    warnings.filterwarnings("ignore", r"\d+ tasks (which|have)", module="joblib")  # so it says after Ctrl-C
    settings = {"initializer": start_worker, "initargs": (os.getpid(),)} if backend == "loky" else {}
    try:
        with connected(backend), joblib.parallel_config(backend, **settings):
            with joblib.Parallel(workers, return_as="generator") as parallel:
                # joblib would work through all jobs, whether their results are asked for or not.
                while ahead := list(itertools.islice(jobs, AHEAD * workers)):
                    with script.ctrl_c_later():
                        results = parallel(joblib.delayed(function)(job) for job in ahead)
                    yield from results
    except BrokenProcessPool:
        script.fail("a process was ended from outside, likely for want of memory: run the same command again, "
                    "with WORKERS=1 if it happens again")
