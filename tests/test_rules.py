"""Constants by one rule: every constant of every script, set to every wrong type, is refused in one line."""

import importlib
import re
import sys
from pathlib import Path

import pytest

import processed
from terminal import rules

SCRIPTS = ("processed", "validation", "train", "test", "realtime", "congress", "drawn", "folders", "sets", "webcam",
           "tools.bench", "tools.compare", "tools.export", "tools.picture")
WRONG = (None, "64", "", "\0", 1.5, -1, 10**30, 10**400, float("nan"), True, b"x", [], (), {}, ("a", 1), {"a": 1},
         {1: {}}, [None], object(), {1280, 720}, {1280: 0, 720: 0}, {0: 1}, {"man": 1, "woman": 2}, "hat",
         {"glasses": ()}, {"glasses": {"a.mp4": 1}}, ("age", "age"), (1000, 1000), [1280, "720"],
         {"a": {"EPOCHS": "x"}})
# The values of WRONG that are right for some constants: {their repr(): names}. All others must be refused.
TEXTS = set("FACES_DIR FONT LABELS_URL OUTPUT PEOPLE PHOTOS PLOTS_DIR PORTRAITS_URL PREFIX RAW_DIR RUNS_DIR "
            "SOURCE START TEST_DIR TRAIN_DIR VALID_DIR WEIGHTS WEIGHTS_DIR".split())
ALLOWED = {
    "None": set("AUGMENT BALANCE BATCH_SIZE CAMERA_SIZE EMA EPOCHS EVAL_MARGIN FONT IMAGE_SIZE LABEL_SMOOTHING LOG LR "
                "OUTPUT PHOTOS SOURCE START WEIGHTS WEIGHT_DECAY".split()),
    "'64'": TEXTS, "'hat'": TEXTS, "''": {"PERSON", "PREFIX", "TEST_DIR"},
    "1.5": {"CLAHE", "DELAY", "LR", "RATE", "RETRY", "SECONDS", "TIMEOUT"},
    repr(10**30): {"BATCH_SIZE", "EPOCHS", "ROBUSTNESS_PHOTOS"},
    "True": set("BALANCE BLUR CROPPED MIRROR NEW_SPLITS PAPER RESUME ROBUSTNESS SHOW".split()),
    "[]": {"AUXILIARY", "STAGES"}, "()": {"AUXILIARY", "STAGES"},
    "{}": {"CLIPS", "LABELS", "LISTS", "RENAME", "SETTINGS"}, "(1000, 1000)": {"CAMERA_SIZE"}}


@pytest.fixture(params=SCRIPTS)
def module(request, tmp_path, monkeypatch):
    """A script, and an empty working folder."""
    monkeypatch.chdir(tmp_path)
    return importlib.import_module(request.param) if request.param != "test" else own_test()


def own_test():
    """test.py, whose name the standard library has too."""
    return sys.modules.get("test") if hasattr(sys.modules.get("test"), "TEST_DIR") else importlib.import_module("test")


def test_every_wrong_type_is_one_line(module, monkeypatch):
    def check():
        rules.check(vars(module))
        if module.__name__ == "tools.compare":
            module.check_variants()

    taken = []
    for name in module.RULES:
        for value in WRONG:
            with monkeypatch.context() as patch:
                patch.setattr(module, name, value)
                try:
                    check()
                    taken.append((name, value))
                except SystemExit as error:
                    assert str(error).startswith("error: ") and "\n" not in str(error), f"{name}={value!r}"
    assert not [(name, value) for name, value in taken if name not in ALLOWED.get(repr(value), ())]
    check()


def test_every_constant_has_a_rule(module):
    text = Path(module.__file__).read_text("utf-8")
    own = text.partition("# ---")[2].rpartition("# ---")[0]  # the block that people edit
    constants = set(re.findall(r"^([A-Z_]+)(?= = |, )", own, re.MULTILINE))
    assert constants and constants <= module.RULES.keys()


@pytest.mark.parametrize(("rule", "right", "wrong"), [
    (bool, [True, False], [1, "True", None]), (str, ["a"], ["", " ", 1, None, "a\0"]),
    ((int, 1, None), [1, 10**9], [0, True, 1.0]), ((float, 0, 1), [0, 1, 0.5], [-0.1, 1.1, float("nan"), True, "0.5"]),
    ({"a": 1, "b": 2}, ["a"], ["c", 1, None, ["a"]]),
    (rules.optional((int, 0, 9)), [None, 3], [10, "3"]), (rules.either((int, 0, 9), str), [3, "cam"], [10, None]),
    (rules.some_of(("a", "b")), [(), ("a",), ["b", "a"]], ["a", ("c",), None, ([],)]),
    (rules.ends_in(".csv"), ["a.csv", "A.CSV"], ["", ".", "/", "a.txt", None])])
def test_rules(rule, right, wrong):
    for value in right:
        rules.check({"X": value, "RULES": {"X": rule}})
    for value in wrong:
        with pytest.raises(SystemExit, match="^error: X=.*: must be "):
            rules.check({"X": value, "RULES": {"X": rule}})


@pytest.mark.parametrize(("rule", "value", "line"), [
    (rules.optional(str), "", "X='': must be None, or a text that is not empty"),
    (rules.TEXTS, {"M": 1}, "X={'M': 1}: must be a dict of texts, such as {'M': 'man'}")])
def test_a_rule_says_what_is_wanted(rule, value, line):
    with pytest.raises(SystemExit) as error:
        rules.check({"X": value, "RULES": {"X": rule}})
    assert str(error.value) == f"error: {line}"


@pytest.mark.parametrize("name", ["validation", "test", "realtime", "webcam"])
def test_a_constant_of_processed_that_another_script_reads_is_checked_there(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(processed, "DETECTOR", ["yunet"])
    with pytest.raises(SystemExit, match=r"^error: DETECTOR=\['yunet'\]: must be one of yunet, haar"):
        (own_test() if name == "test" else importlib.import_module(name)).main()
    assert not list(tmp_path.iterdir())
