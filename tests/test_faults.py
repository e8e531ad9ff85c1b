"""What Ctrl-C, kills, full disks and a second run do to the scripts: one line, no hang, nothing half written."""

import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

import drawn
import model as networks
from faces import cropping
from learn import runs
from photos import face
from running import LINUX, POSIX, ROOT, children, kill, none_left, press_ctrl_c, run, start, wait_for
from strangers import facts


@pytest.fixture
def many(tmp_path):
    """data/raw with 2 x 30 photos, enough to be stopped within."""
    for name in drawn.CLASSES:
        folder = tmp_path / "data" / "raw" / name
        folder.mkdir(parents=True)
        face(3, name).resize((900, 1200)).save(folder / "0.jpg")
        for i in range(1, 30):
            shutil.copyfile(folder / "0.jpg", folder / f"{i}.jpg")
    return tmp_path


def crops_of(folder):
    """The crops there are; each must be whole. Temporary files don't count."""
    found = [p for p in (folder / "processed" / "faces").glob("*/*.jpg") if not p.name.startswith(".")]
    for path in found:
        assert path.read_bytes().endswith(b"\xff\xd9") and cropping.read_crop(path).shape == (224, 224, 3), path
    return found


def finish(folder):
    """Run processed.py again: it does what is missing, and all is there."""
    code, out, err = run("processed.py", "WORKERS=2", cwd=folder)
    assert code == 0, err
    assert len(crops_of(folder)) == 60
    return next(int(line.split()[0]) for line in out.splitlines() if "photos to crop" in line)


def test_two_at_once_on_one_folder(many):
    both = [start("processed.py", "WORKERS=1", cwd=many) for _ in range(2)]
    for process in both:
        out, err = process.communicate(timeout=200)
        assert process.returncode == 0 and "60 of 60 photos kept" in out, err
    assert finish(many) == 0 and not list((many / "processed").rglob(".tmp*"))


def test_ctrl_c_while_the_processes_start(many):
    process = start("processed.py", "WORKERS=2", cwd=many)
    assert any(line.startswith("60 photos to crop") for line in process.stdout), "and said so"
    time.sleep(0.1)
    press_ctrl_c(process)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130 and "Traceback" not in err and "stopped by Ctrl-C" in err


@LINUX
def test_a_killed_worker_ends_the_run(many):
    process = start("processed.py", "WORKERS=2", cwd=many)
    wait_for(lambda: len(crops_of(many)) > 20)
    os.kill(children(process.pid)[-1], signal.SIGKILL)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1 and "Traceback" not in err
    assert err.count("error: ") == 1 and "was killed, probably" in err
    kept = len(crops_of(many))
    assert 20 < kept < 60 and 60 - kept <= finish(many) < 60, "the last ones, which were not noted yet, are done again"


def test_workers_leave_with_a_killed_parent(many):
    process = start("processed.py", "WORKERS=2", cwd=many)
    wait_for(lambda: crops_of(many))
    kill(process)
    process.communicate(timeout=120)
    wait_for(lambda: none_left(process), 20)
    finish(many)


@pytest.mark.parametrize(("program", "arguments"), [("train.py", []), ("test.py", []),
                                                    ("realtime.py", ["SHOW=False", "SOURCE=a.png"])])
def test_ctrl_c_during_the_import_of_torch(program, arguments, tmp_path):
    face().save(tmp_path / "a.png")
    (tmp_path / "slow" / "torch").mkdir(parents=True)
    (tmp_path / "slow" / "torch" / "__init__.py").write_text(
        "import time\nopen('importing', 'w').close()\nfor _ in range(40):\n    time.sleep(0.1)\n")
    process = start(program, *arguments, cwd=tmp_path, PYTHONPATH=str(tmp_path / "slow"))
    wait_for((tmp_path / "importing").exists)
    press_ctrl_c(process)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130 and err.strip().count("\n") == 0 and "stopped by Ctrl-C" in err, err


def test_ctrl_c_in_the_processes_of_test(many):
    runs.save_weights(many / "w.pt", facts(networks.build("small", 2), classes=list(drawn.CLASSES)))
    process = start("test.py", "TEST_DIR=data/raw", "WEIGHTS=w.pt", "WORKERS=2", cwd=many)
    told = ""
    while " 1/60" not in told:  # the progress bar of the faces
        told += process.stderr.read(1)
        assert process.poll() is None, told
    press_ctrl_c(process)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130 and "Traceback" not in told + err and "stopped by Ctrl-C" in err


@POSIX
def test_a_full_disk_in_processed(many):
    """No file may grow beyond 4 KB, which is what a full disk does to a crop."""
    program = "import os, resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)); " \
              "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    done = subprocess.run([sys.executable, "-c", program, str(ROOT / "processed.py"), "WORKERS=2"], cwd=many,
                          capture_output=True, text=True, timeout=100)
    assert done.returncode == 1 and "Traceback" not in done.stderr and done.stderr.count("error: ") == 1, done.stderr
    assert "free some space" in done.stderr and not crops_of(many)
    assert not list((many / "processed").rglob(".tmp*"))
