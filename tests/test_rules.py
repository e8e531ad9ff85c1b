"""Constants by one rule: every constant of every script, set to every wrong type, is one line or is taken."""

import importlib
import sys
from pathlib import Path

import pytest

from terminal import rules, script

SCRIPTS = ("processed", "validation", "train", "test", "realtime", "congress", "drawn", "folders", "sets", "webcam",
           "tools.bench", "tools.compare", "tools.export", "tools.picture")
WRONG = (None, "64", "", "\0", 1.5, -1, 10**30, 10**400, float("nan"), True, b"x", [], (), {}, ("a", 1), {"a": 1},
         {1: {}}, [None], object())


@pytest.fixture(params=SCRIPTS)
def module(request, tmp_path, monkeypatch):
    """A script, and an empty working folder."""
    monkeypatch.chdir(tmp_path)
    return importlib.import_module(request.param) if request.param != "test" else own_test()


def own_test():
    """test.py, whose name the standard library has too."""
    return sys.modules.get("test") if hasattr(sys.modules.get("test"), "TEST_DIR") else importlib.import_module("test")


def test_every_wrong_type_is_one_line(module, monkeypatch):
    names = known(module, monkeypatch)
    for name in names:
        for value in WRONG:
            with monkeypatch.context() as patch:
                patch.setattr(module, name, value)
                try:
                    module.check_constants()
                except (SystemExit, script.Problem) as error:
                    assert "\n" not in str(error), f"{name}={value!r}"
    module.check_constants()


def known(module, monkeypatch):
    """The names that check_constants() has a rule for."""
    with monkeypatch.context() as patch:
        found = {}
        patch.setattr(rules, "check", lambda namespace, **given: found.update(given))
        module.check_constants()
    return found


def test_every_constant_has_a_rule(module, monkeypatch):
    text = Path(module.__file__).read_text("utf-8")
    own = text.partition("# ---")[2].rpartition("# ---")[0]  # the block that people edit
    constants = {name for name in script.constants(vars(module)) if f"\n{name} = " in own or f"\n{name}, " in own}
    assert constants <= known(module, monkeypatch).keys()


@pytest.mark.parametrize(("rule", "right", "wrong"), [
    (bool, [True, False], [1, "True", None]), (str, ["a"], ["", " ", 1, None, "a\0"]),
    ((int, 1, None), [1, 10**9], [0, True, 1.0]), ((float, 0, 1), [0, 1, 0.5], [-0.1, 1.1, float("nan"), True, "0.5"]),
    ({"a": 1, "b": 2}, ["a"], ["c", 1, None, ["a"]]),
    (rules.optional((int, 0, 9)), [None, 3], [10, "3"]), (rules.either((int, 0, 9), str), [3, "cam"], [10, None]),
    (rules.some_of(("a", "b")), [(), ("a",), ["b", "a"]], ["a", ("c",), None, ([],)]),
    (rules.ends_in(".csv"), ["a.csv", "A.CSV"], ["", ".", "/", "a.txt", None])])
def test_rules(rule, right, wrong):
    for value in right:
        rules.check({"X": value}, X=rule)
    for value in wrong:
        with pytest.raises(SystemExit, match="^error: X=.*: must be "):
            rules.check({"X": value}, X=rule)
