"""The house: seven scripts on the top level, every helper in its room, arrows that run one way."""

import ast
import subprocess
import sys

import pytest

from running import ROOT
from terminal import places

SCRIPTS = {"processed", "validation", "dataset", "model", "train", "test", "realtime"}
# What the modules of a room may import of this project, beside those of their own room.
MAY_IMPORT = {"terminal": set(), "faces": {"terminal"}, "judge": {"terminal", "faces"}, "live": {"terminal", "faces"},
              "learn": {"terminal", "faces", "judge", "model", "dataset"}}


def imported(path):
    """The project's rooms and scripts that a module imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module.split(".")[0])
    return names & (SCRIPTS | MAY_IMPORT.keys() | {"tools"})


def test_the_top_level_holds_exactly_the_seven_scripts():
    assert {path.stem for path in ROOT.glob("*.py")} == SCRIPTS


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_arrows_run_one_way(room):
    modules = sorted((ROOT / room).glob("*.py"))
    assert len(modules) > 1 and ast.get_docstring(ast.parse((ROOT / room / "__init__.py").read_text("utf-8")))
    for path in modules:
        assert imported(path) <= MAY_IMPORT[room] | {room}, f"{path.name} imports what its room must not know"


def test_of_the_steps_only_dataset_is_imported_by_a_part():
    """model.py and dataset.py are parts that rooms may import, so they may not lead back to the other scripts."""
    assert imported(ROOT / "model.py") == {"terminal"}
    steps = SCRIPTS - {"model", "dataset"}
    assert not imported(ROOT / "dataset.py") & steps


def test_steps_and_rooms_before_any_network_import_no_torch():
    modules = ["processed", "validation", *(f"{room}.{path.stem}" for room in ("terminal", "faces", "judge", "live")
                                            for path in (ROOT / room).glob("[!_]*.py"))]
    code = f"import sys, {', '.join(modules)}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_the_folders_that_outputs_must_keep_apart_from_are_those_of_the_scripts():
    """places.PLACES repeats the scripts' own constants, since terminal/ imports no script. Importers and tools repeat
    none, so that whoever edits a folder does so in its script and in places.PLACES."""
    owned = {name: set() for name in places.PLACES}
    for path in [*ROOT.glob("*.py"), *(ROOT / "data").glob("*.py"), *(ROOT / "tools").glob("*.py")]:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
                for name in owned.keys() & {target.id for target in node.targets}:
                    assert path.parent == ROOT, f"{path.name} repeats {name}"
                    owned[name].add(node.value.value)
    assert owned == {name: {place} for name, place in places.PLACES.items()}
