"""script.py: constants from the command line, one-line errors, files that are whole or not there."""

import pytest

from terminal import script
from terminal.files import atomic, classes_of


def constants():
    return {"EPOCHS": 3, "LR": 0.1, "NAME": "a", "OUTPUT": None, "SHOW": True, "lower": 1, "__file__": "train.py"}


@pytest.mark.parametrize(("argument", "name", "value"), [
    ("EPOCHS=5", "EPOCHS", 5), ("LR=1", "LR", 1.0), ("LR=1e-3", "LR", 1e-3), ("NAME=data/raw", "NAME", "data/raw"),
    ("NAME=7", "NAME", "7"), ("OUTPUT=a.mp4", "OUTPUT", "a.mp4"),
    ("OUTPUT=3", "OUTPUT", 3), ("SHOW=False", "SHOW", False),
])
def test_override_sets_a_constant(argument, name, value):
    namespace = constants()
    script.override(namespace, [argument])
    assert namespace[name] == value and type(namespace[name]) is type(value)


@pytest.mark.parametrize("argument", ["EPOCHS=many", "EPOCHS=1.5", "EPOCHS=True", "SHOW=1", "LR=fast", "EPOCH=3",
                                      "--epochs", "lower=2"])
def test_override_refuses_in_one_line(argument):
    with pytest.raises(SystemExit) as stop:
        script.override(constants(), [argument])
    assert str(stop.value).startswith("error: ") and "\n" not in str(stop.value)


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(SystemExit, match="EPOCHS, LR, NAME, OUTPUT, SHOW"):
        script.override(constants(), ["EPOCH=3"])


def test_a_shared_constant_is_edited_in_its_file():
    with pytest.raises(SystemExit, match="edit it at the top of train.py"):
        script.override(constants(), ["LR=0.5"], fixed={"LR"})


def test_atomic_leaves_the_old_file_when_the_block_fails(tmp_path):
    path = tmp_path / "sub" / "a.txt"
    with atomic(path) as temporary:
        temporary.write_text("old")
    with pytest.raises(RuntimeError), atomic(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old" and list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device", "last.pt"), PermissionError(13, "denied")])
def test_run_turns_system_errors_into_one_line(error):
    def main():
        raise error

    with pytest.raises(SystemExit, match="^error: .*run again$"):
        script.run(main)


def test_ctrl_c_exits_with_130(capsys):
    def main():
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as stop:
        script.run(main, "go on with X")
    assert stop.value.code == 130 and "go on with X" in capsys.readouterr().err


def test_classes_of_wants_two_folders(tmp_path):
    with pytest.raises(SystemExit, match="no folder .*: fill it"):
        classes_of(tmp_path / "none", "fill it")
    (tmp_path / "a").mkdir()
    (tmp_path / ".hidden").mkdir()
    with pytest.raises(SystemExit, match="1 class"):
        classes_of(tmp_path, "fill it")
    (tmp_path / "b").mkdir()
    assert classes_of(tmp_path, "fill it") == ["a", "b"]
