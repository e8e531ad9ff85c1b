"""What users, disks, strangers and Ctrl-C do to the scripts: one line, no hang, and nothing of the user's is lost."""

import csv
import os
import signal
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import drawn
import model as networks
import processed
import realtime
import test as testing
import train
import validation
from faces import cutting, finding, reading
from learn import checkpoints
from live import stills
from live.controls import Controls
from live.results import Results
from processed import IMAGE_SIZE, MARGIN
from terminal import script
from terminal.files import classes_of
from test_model import bad_files, facts

ROOT = Path(__file__).resolve().parent.parent
POSIX = pytest.mark.skipif(os.name == "nt", reason="process groups, limits and links of POSIX")
LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc tells which processes a process has")


def face(seed=3, name="hat"):
    return Image.fromarray(drawn.draw_face(seed, name))


def start(program, *arguments, cwd, **environment):
    """A script as a user starts it, in a process group of its own, as a terminal gives it."""
    return subprocess.Popen([sys.executable, "-W", "error", str(ROOT / program), *arguments], cwd=cwd, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
                            env={**os.environ, "OMP_NUM_THREADS": "1", **environment})


def run(program, *arguments, cwd):
    process = start(program, *arguments, cwd=cwd)
    out, err = process.communicate(timeout=200)
    return process.returncode, out, err


def settle(module, monkeypatch, *arguments):
    """Set a script's constants as its command line would, until the test ends."""
    for name in script.constants(vars(module)):
        monkeypatch.setattr(module, name, getattr(module, name))
    script.override(vars(module), arguments)


def claim(width, height):
    """A PNG of 24-bit colour that claims a size and holds next to nothing."""
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
            + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b""))


def wait_for(what, seconds=60):
    """Wait until what() is true."""
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until, "it did not come to that"
        time.sleep(0.01)


# ------------------------------------------------------------------------------------------------ photos

KEPT = ["a face.jpg", "it's $quoted & co.png", "😀 ñ.webp", "x" * 200 + ".jpg", "animated.gif"]
NO_FACE = {"wide.jpg": (20_000, 300), "wide.png": (20_000, 300), "tall.png": (30, 20_000)}


def hostile(folder):
    """Fill a folder with photos, good ones and all others. Returns the names of those that cannot be read."""
    for name in KEPT[:-1]:
        face().save(folder / name)
    face().save(folder / KEPT[-1], save_all=True, append_images=[face(4), face(5)])
    for name, size in NO_FACE.items():
        Image.new("RGB", size, "gray").save(folder / name)
    whole = (folder / "a face.jpg").read_bytes()
    bad = {"empty.jpg": b"", "text.jpg": b"no photo", "cut.jpg": whole[:3000], "bomb.png": claim(60_000, 60_000),
           "hollow.png": claim(9000, 9000), "one.bmp": None, "script.jpg": b"%!PS-Adobe-3.0 EPSF-3.0\n"
           b"%%BoundingBox: 0 0 100 100\n%%EndComments\n(out.txt) (w) file closefile\n%%EOF\n"}
    for name, data in bad.items():
        if data is None:
            Image.new("RGB", (1, 1)).save(folder / name)
        else:
            (folder / name).write_bytes(data)
    (folder / "folder.jpg").mkdir()
    if os.name != "nt":
        links = {"loop.jpg": "loop.jpg", "broken.jpg": "nowhere.jpg", "endless.jpg": "/dev/zero"}
        for name, target in links.items():
            (folder / name).symlink_to(target)
        (folder / "again").symlink_to(".")
        os.mkfifo(folder / "pipe.jpg")
        bad |= dict.fromkeys([*links, "pipe.jpg"])
    return set(bad)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A hostile class and a good one, on which processed.py has run: (folder, bad names, bytes before, result)."""
    folder = tmp_path_factory.mktemp("hostile")
    raw = folder / "data" / "raw"
    for name in drawn.CLASSES:
        (raw / name).mkdir(parents=True)
    for i in range(2):
        face(i, "beard").save(raw / "beard" / f"{i}.png")
    bad = hostile(raw / "hat")
    before = {p: p.read_bytes() for p in raw.rglob("*") if p.is_file() and p.name != "endless.jpg"}
    return folder, bad, before, run("processed.py", cwd=folder)


def test_bad_photos_are_counted_and_the_rest_is_done(project):
    folder, bad, _, (code, out, err) = project
    assert code == 0 and "Traceback" not in err, err
    counts = next(line.split()[1:4] for line in out.splitlines() if line.startswith("hat"))
    assert counts == [str(len(KEPT)), str(len(NO_FACE)), str(len(bad))]
    with open(folder / "processed" / "skipped.csv", encoding="utf-8") as file:
        rows = {Path(row["photo"]).name: row for row in csv.DictReader(file)}
    assert set(rows) == bad | set(NO_FACE)
    assert rows["script.jpg"]["reason"] == "not an image", "nothing but images may be opened, least of all programs"
    assert all(row["reason"] and "\n" not in row["reason"] for row in rows.values())
    crops = list((folder / "processed" / "faces" / "hat").iterdir())
    assert len(crops) == len(KEPT) and all(cutting.read_crop(p).shape == (224, 224, 3) for p in crops)


def test_originals_are_byte_identical(project):
    folder, _, before, _ = project
    assert all(path.read_bytes() == data for path, data in before.items())
    assert not (folder / "out.txt").exists(), "PostScript in a photo was run"


def test_realtime_skips_bad_photos(project, tmp_path):
    folder, bad, before, _ = project
    checkpoints.save_weights(tmp_path / "w.pt", facts(networks.build("small", 2), model="small", image_size=96))
    source = folder / "data" / "raw" / "hat"
    code, out, err = run("realtime.py", f"SOURCE={source}", f"OUTPUT={tmp_path / 'out'}", "SHOW=False",
                         f"WEIGHTS={tmp_path / 'w.pt'}", cwd=tmp_path)
    assert code == 0 and "Traceback" not in err, err
    good = len(KEPT) + len(NO_FACE)
    assert f"{good} photos, {len(KEPT)} faces, {len(NO_FACE)} no face, {len(bad)} unreadable" in out
    assert len(list((tmp_path / "out").iterdir())) == good
    assert all(path.read_bytes() == data for path, data in before.items())


def test_a_picture_that_its_format_cannot_hold_is_said(tmp_path, capsys):
    """A PNG in a .jpg name, longer than JPEG allows, is shown but not written; the next photo is."""
    (tmp_path / "in").mkdir()
    Image.new("RGB", (24, 70_000), "gray").save(tmp_path / "in" / "a.jpg", "PNG")
    Image.new("RGB", (90, 90), "gray").save(tmp_path / "in" / "b.jpg")
    class Loaded:
        def result(self):
            return {"margin": 0.2, "clahe": 0.0, "threshold": 0.6, "classes": ["a", "b"]}, None, None

    photos = stills.album(tmp_path / "in", tmp_path / "out")
    counts = stills.annotate(photos, Loaded(), Controls(show=False), 224, Results())
    assert counts["photos"] == 2 and [p.name for p in (tmp_path / "out").iterdir()] == ["b.jpg"]
    assert "a.jpg cannot be written as an image (24x70000 pixels)" in capsys.readouterr().out


def test_a_photo_without_permission(tmp_path, monkeypatch):
    """As the system answers; root may read everything, so that permissions themselves would test nothing there."""
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    face().save(tmp_path / "a.jpg")
    monkeypatch.setattr(Image, "open", refuse)
    with pytest.raises(reading.PhotoError, match=r"unreadable \(Permission denied\)"):
        reading.read_photo(tmp_path / "a.jpg")


def test_no_two_photos_share_a_crop():
    """Names that differ by suffix, by folder, by case, or at the 200th letter only."""
    folder = Path("raw/hat")
    names = ["a.jpg", "a.png", "a.jpg.png", "sub/b.jpg", "sub__b.jpg", "C.jpg", "c.jpg", *(f"{'d' * 200}{i}.jpg"
             for i in range(3)), f"{'e' * 150}/{'e' * 150}.jpg", "\udcff.jpg", "\udcfe.jpg", "e.jpg"]
    crops = processed.targets([folder / n for n in names], folder, "faces")
    assert len({str(p).lower() for p in crops}) == len(names) and crops[-1].name == "e.jpg"
    assert all(len(p.name.encode()) < 220 for p in crops), "names are text, and no longer than a disk takes"
    assert crops == processed.targets([folder / n for n in names], folder, "faces")


@POSIX
def test_a_name_that_is_no_text(tmp_path, monkeypatch, capsys):
    """Linux takes any bytes for a name."""
    for name in drawn.CLASSES:
        (tmp_path / "raw" / name).mkdir(parents=True)
        path = os.fsencode(tmp_path / "raw" / name) + b"/caf\xe9.png"
        try:
            with open(path, "wb") as file:
                face(1, name).save(file, "PNG")
            (tmp_path / "raw" / name / "empty\udce9.png").write_bytes(b"")
        except OSError:
            pytest.skip("this disk takes text only")
    settle(processed, monkeypatch, f"RAW_DIR={tmp_path / 'raw'}", f"FACES_DIR={tmp_path / 'faces'}",
           f"SKIPPED={tmp_path / 'skipped.csv'}", "WORKERS=1")
    for already in ("0 unchanged", "4 unchanged"):
        processed.main()
        assert already in capsys.readouterr().out
    settle(validation, monkeypatch, f"FACES_DIR={tmp_path / 'raw'}", f"TRAIN_DIR={tmp_path / 'train'}",
           f"VALID_DIR={tmp_path / 'valid'}")
    with pytest.raises(SystemExit) as stop:
        script.run(validation.main)
    assert not stop.value.code
    os.rename(os.fsencode(tmp_path / "raw" / "hat"), os.fsencode(tmp_path / "raw") + b"/h\xe9")
    with pytest.raises(SystemExit, match="is no text in UTF-8: rename it"):
        classes_of(tmp_path / "raw", "")


# ------------------------------------------------------------------------------------------------ processes

@pytest.fixture
def many(tmp_path):
    """data/raw with 2 x 30 photos, enough to be stopped within."""
    for name in drawn.CLASSES:
        folder = tmp_path / "data" / "raw" / name
        folder.mkdir(parents=True)
        picture = face(3, name).resize((900, 1200))
        for i in range(30):
            picture.save(folder / f"{i}.jpg")
    return tmp_path


def crops_of(folder):
    """The crops there are; each must be whole. Temporary files don't count."""
    found = [p for p in (folder / "processed" / "faces").glob("*/*.jpg") if not p.name.startswith(".")]
    for path in found:
        assert path.read_bytes().endswith(b"\xff\xd9") and cutting.read_crop(path).shape == (224, 224, 3), path
    return found


def children(pid):
    return [int(n) for n in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


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


@POSIX
def test_ctrl_c_in_the_midst_of_processed(many):
    process = start("processed.py", "WORKERS=2", cwd=many)
    wait_for(lambda: crops_of(many))
    os.killpg(process.pid, signal.SIGINT)  # a terminal sends it to the whole group
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in err and "stopped by Ctrl-C: run the same" in err
    kept = len(crops_of(many))
    assert 0 < kept < 60 and finish(many) == 60 - kept


@POSIX
def test_ctrl_c_while_the_processes_start(many):
    process = start("processed.py", "WORKERS=2", cwd=many)
    assert any(line.startswith("60 photos to crop") for line in process.stdout), "and said so"
    time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in err and "stopped by Ctrl-C" in err


@LINUX
def test_a_killed_worker_ends_the_run(many):
    process = start("processed.py", "WORKERS=2", cwd=many)
    wait_for(lambda: crops_of(many))
    os.kill(children(process.pid)[-1], signal.SIGKILL)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1 and "Traceback" not in err
    assert err.count("error: ") == 1 and "ended from outside" in err
    kept = len(crops_of(many))
    assert 0 < kept < 60 and finish(many) == 60 - kept


@LINUX
def test_workers_leave_with_a_killed_parent(many):
    process = start("processed.py", "WORKERS=2", cwd=many)
    wait_for(lambda: crops_of(many))
    workers = children(process.pid)
    process.kill()
    process.communicate(timeout=60)
    alive = [Path(f"/proc/{pid}/cmdline") for pid in workers]
    wait_for(lambda: not any(p.exists() and p.read_bytes() for p in alive), 20)
    finish(many)


@pytest.mark.parametrize(("program", "arguments"), [("train.py", []), ("test.py", []),
                                                    ("realtime.py", ["SHOW=False", "SOURCE=a.png"])])
@POSIX
def test_ctrl_c_during_the_import_of_torch(program, arguments, tmp_path):
    face().save(tmp_path / "a.png")
    (tmp_path / "slow" / "torch").mkdir(parents=True)
    (tmp_path / "slow" / "torch" / "__init__.py").write_text(
        "import time\nopen('importing', 'w').close()\nfor _ in range(40):\n    time.sleep(0.1)\n")
    process = start(program, *arguments, cwd=tmp_path, PYTHONPATH=str(tmp_path / "slow"))
    wait_for((tmp_path / "importing").exists)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and err.strip().count("\n") == 0 and "stopped by Ctrl-C" in err, err


@POSIX
def test_ctrl_c_in_the_processes_of_test(many):
    checkpoints.save_weights(many / "w.pt", facts(networks.build("small", 2), model="small", image_size=96,
                                               classes=list(drawn.CLASSES)))
    process = start("test.py", "TEST_DIR=data/raw", "WEIGHTS=w.pt", "WORKERS=2", cwd=many)
    told = ""
    while " 1/60" not in told:  # the progress bar of the faces
        told += process.stderr.read(1)
        assert process.poll() is None, told
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
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


# ------------------------------------------------------------------------------------------------ weights of strangers

HARMFUL = {"a huge margin": {"margin": 1e9}, "a huge size": {"image_size": 10 ** 9}, "no temperature":
           {"temperature": 0.0}, "classes without names": {"classes": [1, 2]}, "no classes": {"classes": []},
           "one class": {"classes": ["a"]}, "no spread": {"std": [0.0] * 3}, "a mean that is none":
           {"mean": [float("nan")] * 3}, "two colours": {"mean": [0.5] * 2}, "equal classes": {"classes": ["a", "a"]}}


@pytest.mark.parametrize("what", HARMFUL)
def test_facts_that_would_do_harm_are_refused(what, tmp_path):
    changed = {"model": "small", "image_size": 96, **HARMFUL[what]}
    torch.save(facts(networks.build("small", 2), **changed), tmp_path / "a.pt")
    with pytest.raises(checkpoints.WeightsError, match="no weights file of this project") as error:
        checkpoints.load_weights(tmp_path / "a.pt")
    assert "\n" not in str(error.value)


def test_weights_that_are_no_numbers_are_refused(tmp_path):
    net = networks.build("small", 2)
    torch.nn.init.constant_(net.classifier[-1].bias, float("nan"))
    torch.save(facts(net, model="small", image_size=96), tmp_path / "a.pt")
    with pytest.raises(checkpoints.WeightsError, match="that are no numbers"):
        checkpoints.load_weights(tmp_path / "a.pt")


@pytest.mark.parametrize("kind", ["torch pickle", "other network", "other classes", "truncated"])
def test_test_and_realtime_refuse_bad_weights_in_one_line(kind, tmp_path, monkeypatch, capsys):
    path = tmp_path / "a.pt"
    if kind == "truncated":
        torch.save(facts(networks.build("small", 2), model="small", image_size=96), path)
        path.write_bytes(path.read_bytes()[:100_000])
    else:
        bad_files()[kind](path)
    face().save(tmp_path / "a.png")
    settle(testing, monkeypatch, f"WEIGHTS={path}")
    settle(realtime, monkeypatch, f"WEIGHTS={path}", "SHOW=False", f"SOURCE={tmp_path / 'a.png'}")
    for program in (testing, realtime):
        with pytest.raises(SystemExit, match="^error: .*a.pt") as stop:
            script.run(program.main)
        assert "\n" not in str(stop.value) and "bomb" not in capsys.readouterr().out


# ------------------------------------------------------------------------------------------------ constants, classes

@pytest.mark.parametrize(("module", "argument"), [
    (processed, "WORKERS=-1"), (processed, "RAW_DIR=None"), (validation, "VALID_RATIO=0"),
    (validation, "VALID_RATIO=1"), (validation, "VALID_RATIO=nan"),
    (validation, "VALID_RATIO=-0.2"), (validation, "PERSON_PATTERN=("),
    (train, "EPOCHS=-1"), (train, "BATCH_SIZE=0"), (train, "LR=1e999"), (train, "SEED=1.5"),
    (train, "SOURCES=(1,)"), (train, "EVEN=2.0"),
    (testing, "BATCH_SIZE=0"), (testing, "WORKERS=-2"), (testing, "SEED=-1"), (testing, "ROBUSTNESS_PHOTOS=-1"),
    (testing, "WEIGHTS=3"), (realtime, "WEIGHTS=3"),
    (realtime, "OUTPUT=3"), (realtime, "RETRY=-1"), (realtime, "SOURCE=True"), (realtime, "SOURCE=[1]"),
    (realtime, "SHOW=1"), (realtime, "LABELS=man"), (drawn, "PER_PERSON=0"), (drawn, "COUNT=-5"), (drawn, "NAME=3"),
])
def test_constants_that_make_no_sense_are_one_line(module, argument, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="^error: ") as stop:
        settle(module, monkeypatch, argument)
        script.run(module.main)
    assert "\n" not in str(stop.value) and any(part in str(stop.value) for part in argument.split("="))
    assert not list(tmp_path.iterdir())


def crops(folder, counts, seed=0):
    """Crops of drawn faces: as many as `counts` says, a class."""
    for c, (name, count) in enumerate(counts.items()):
        for i in range(count):
            picture = drawn.draw_face(seed + 50 * c + i, drawn.CLASSES[c % 2])
            box = finding.main_face(picture).box
            cutting.write_crop(folder / name / f"{i}.jpg", cutting.crop_face(picture, box, MARGIN, IMAGE_SIZE))


def test_one_class_and_a_class_with_one_photo(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    crops(Path("processed/faces"), {"many": 6})
    with pytest.raises(SystemExit, match="has 1 class folder.* and needs at least two"):
        validation.main()
    crops(Path("processed/faces"), {"many": 6, "single": 1})
    validation.main()
    assert "nothing for validation: one crop" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="no crops of single; add photos"):
        train.main()


@pytest.fixture
def one_thread():
    """So few crops are not worth more, and the machine may be busy; live use chooses its own number."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_ten_classes_from_photos_to_labels(tmp_path, monkeypatch, capsys, one_thread):
    monkeypatch.chdir(tmp_path)
    names = [f"class {i}" for i in range(10)]
    for folder, count, seed in (("data/raw", 5, 0), ("data/test", 2, 5000)):
        for c, name in enumerate(names):
            Path(folder, name).mkdir(parents=True)
            for i in range(count):
                picture = Image.fromarray(drawn.draw_face(seed + 50 * c + i, drawn.CLASSES[c % 2]))
                picture.save(Path(folder, name, f"{i}.png"))
    settle(processed, monkeypatch, "WORKERS=2")
    settle(train, monkeypatch, "EPOCHS=1", "MODEL=small", "BATCH_SIZE=8", "PRECISION=float32", "DEVICE=cpu")
    settle(realtime, monkeypatch, "SOURCE=data/test", "SHOW=False", "OUTPUT=out")
    for program in (processed, validation, train, testing, realtime):
        assert not program.main()
    told = capsys.readouterr().out
    assert checkpoints.load_weights("weights/best_weights.pt")[1]["classes"] == names
    assert all(told.count(name) > 3 for name in names) and "20 photos, " in told
    with open("plots/predictions.csv", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["status"] == "ok"]
    shares = np.array([[float(row[f"p_{name}"]) for name in names] for row in rows])
    assert len(rows) >= 18 and np.allclose(shares.sum(1), 1, atol=1e-4) and len(list(Path("out").rglob("*.png"))) == 20
