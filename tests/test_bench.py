"""tools/bench.py runs every stage, small, and prints a ratio for each."""

import subprocess
import sys

import pytest

import drawn
from faces import cropping
from tools import bench, plain


@pytest.mark.parametrize("stage", ["evaluate", "live", "size"])
def test_every_stage_prints_its_figures(stage, tmp_path, monkeypatch, capsys):
    for name, value in {"REPEATS": 1, "COUNT": 48, "CROPS": 16, "FRAMES": 10, "SIZES": (40, 80),
                        "WEIGHTS": str(bench.ROOT / "weights/shipped/small.pt")}.items():
        monkeypatch.setattr(bench, name, value)
    monkeypatch.setattr(bench, "pictures", lambda count, pictures=bench.pictures: pictures(min(count, 8)))
    getattr(bench, f"bench_{stage}")(tmp_path)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == {"evaluate": 1, "live": 2, "size": 2}[stage]
    assert all("times as long" in lines[-1] if stage == "size" else float(line[74:81]) > 0 for line in lines)


def test_mixed_crops_repeat_and_differ():
    crops = [cropping.crop_face(drawn.draw_face(i, "hat"), (40, 30, 150, 150), 0.2) for i in range(4)]
    assert (bench.mixed(crops, 3) == bench.mixed(crops, 3)).all()
    assert (bench.mixed(crops, 3) != bench.mixed(crops, 4)).any()


def test_it_starts_from_any_folder_and_ends_with_one_line(tmp_path):
    done = subprocess.run([sys.executable, bench.__file__, "STAGES=('none',)"], cwd=tmp_path, capture_output=True,
                          text=True)
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "some of crop, train" in done.stderr


def test_the_papers_loop_has_the_papers_settings(tmp_path):
    bench.write(tmp_path, [drawn.draw_face(i, drawn.CLASSES[i % 2]) for i in range(2)])
    _, optimizer, batches = plain.kept(tmp_path)
    assert type(optimizer).__name__ == "Adam" and optimizer.param_groups[0]["lr"] == 1e-3 and batches.batch_size == 16
    plain.kept.cache_clear()
