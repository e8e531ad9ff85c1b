"""The constants of a script: the rules that they must follow, and the command line that overrides them. Nothing to run.

    RULES = dict(EPOCHS=rules.optional((int, 1, None)), MODEL=NETWORKS, SHOW=bool, START=rules.optional(str))
    rules.override(globals())              # python train.py EPOCHS=5 MODEL=small
    rules.check(globals())

The names in RULES are the script's constants, which its command line can set. A rule is a type (bool or str), a range
of numbers (type, minimum, maximum), in which a maximum of None is no limit, a collection of names, one of which is the
value, or a Rule. Relative paths in a file are relative to the project's folder, those on the command line to the
working folder.
"""

import ast
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from terminal import script

# Constants that are paths, beside those that end in _DIR.
PATHS = ("SOURCE", "WEIGHTS", "OUTPUT", "LOG", "START", "SKIPPED", "FONT", "PEOPLE", "PHOTOS", "LISTS", "CLIPS")


class Rule(NamedTuple):
    """`holds(value)`: whether a value is valid (may raise for a value of another type); `wanted`: what it must be."""

    holds: Callable
    wanted: str


TEXT = Rule(lambda value: isinstance(value, str) and "\0" not in value, "a text, which may be empty")
TEXTS = Rule(lambda value: all(isinstance(text, str) for pair in value.items() for text in pair),
             "a dict of texts, such as {'M': 'man'}")


def rule_of(rule):
    """The Rule for one of the short forms."""
    if isinstance(rule, Rule):
        return rule
    if rule is bool:
        return Rule(lambda value: isinstance(value, bool), "True or False")
    if rule is str:
        return Rule(lambda value: TEXT.holds(value) and value.strip(), "a text that is not empty")
    if isinstance(rule, tuple) and isinstance(rule[0], type):
        return number(*rule)
    return Rule(lambda value: isinstance(value, str) and value in rule, f"one of {', '.join(rule)}")


def number(kind, minimum, maximum):
    """The Rule for an int, or for a float, which may be given as an int."""
    def holds(value):
        fits = isinstance(value, int if kind is int else (int, float)) and not isinstance(value, bool)
        return fits and math.isfinite(value) and minimum <= value <= (math.inf if maximum is None else maximum)

    wanted = "a whole number" if kind is int else "a number"
    wanted += f", at least {minimum}" if maximum is None else f" from {minimum} to {maximum}"
    return Rule(holds, wanted)


def sequence(rule, wanted, minimum=0, maximum=math.inf, distinct=True):
    """The Rule for a tuple or list of `minimum` to `maximum` values that follow `rule`; `distinct`: each only once.
    `wanted`: of the Rule."""
    inner = rule_of(rule)

    def holds(value):
        if not isinstance(value, (tuple, list)) or not minimum <= len(value) <= maximum:
            return False
        if distinct and len(set(value)) < len(value):
            return False
        return all(keeps(part, inner) for part in value)

    return Rule(holds, wanted)


def optional(rule):
    """The Rule for None, or a value of `rule`."""
    holds, wanted = rule_of(rule)
    return Rule(lambda value: value is None or holds(value), f"None, or {wanted}")


def either(*choices):
    """The Rule for a value that follows one of several rules."""
    found = [rule_of(rule) for rule in choices]
    return Rule(lambda value: any(keeps(value, rule) for rule in found), ", or ".join(rule.wanted for rule in found))


def keeps(value, rule):
    """Whether a value of any type follows a Rule."""
    try:
        return bool(rule.holds(value))
    except (TypeError, ValueError, AttributeError, KeyError, OverflowError):
        return False


def ends_in(ending):
    """The Rule for the name of a file with a suffix, such as ".csv"."""
    return Rule(lambda value: isinstance(value, str) and Path(value).suffix.lower() == ending and "\0" not in value,
                f"a name that ends in {ending}")


def some_of(names):
    """The Rule for a tuple of names, each once, which may be empty."""
    return sequence(names, f"some of {', '.join(names)}, as {tuple(names)}, or ()")


def refuse(name, value, rule):
    """End the program with one line on the `value` of the constant `name`, which breaks its Rule."""
    script.fail(f"{name}={script.public(repr(value))}: must be {rule.wanted}")


def check(namespace):
    """End the program with one line at the first constant in `namespace` (globals()) that breaks its rule."""
    for name, rule in namespace["RULES"].items():
        if not keeps(namespace[name], rule_of(rule)):
            refuse(name, namespace[name], rule_of(rule))


def constants(namespace):
    """The constants in a script's globals() that RULES names: {name: value}."""
    return {name: namespace[name] for name in namespace["RULES"]}


def override(namespace, argv=None, fixed=()):
    """Apply NAME=VALUE arguments (default: sys.argv[1:]) to the constants in `namespace` (globals()).

    `fixed`: names that other scripts read from the file, so that they can only be edited there. For values, see
    parse(). Paths become absolute, since run() changes to the project's folder; lists become tuples.
    """
    known = namespace["RULES"]
    elsewhere = Path.cwd() != script.HOME.resolve()
    for argument in sys.argv[1:] if argv is None else argv:
        name, equals, text = argument.partition("=")
        if not equals or name not in known:
            script.fail(f"unknown argument {script.public(repr(argument))}: write NAME=VALUE with one of "
                        f"{', '.join(known)}")
        if name in fixed:
            script.fail(f"{name} is shared with the other scripts: edit it at the top of "
                        f"{Path(namespace['__file__']).name}")
        namespace[name] = parse(name, text, known[name])
        if elsewhere:
            namespace[name] = with_paths(name, namespace[name], lambda path: os.path.abspath(os.path.expanduser(path)))
    for name, value in constants(namespace).items():
        value = with_paths(name, value, os.path.expanduser)
        namespace[name] = tuple(value) if isinstance(value, list) else value


def is_path(name, value):
    """Whether a constant is the path of a file or folder, not a camera's number or address."""
    return (name in PATHS or name.endswith("_DIR")) and isinstance(value, str) and value.strip() and "://" not in value


def with_paths(name, value, change):
    """The value of a constant, with change() applied to each path in it."""
    if isinstance(value, (tuple, list)):
        return type(value)(with_paths(name, inner, change) for inner in value)
    if isinstance(value, dict):
        return {key: with_paths(name, inner, change) for key, inner in value.items()}
    return change(value) if is_path(name, value) else value


def parse(name, text, rule, windows=os.name == "nt"):
    """The value of `text`: the Python literal if that follows the rule of the constant `name`, else the text itself, so
    that a folder may be called 1. The program ends if neither follows it. On Windows a backslash belongs to a path, as
    in 'C:\\new.mp4'.
    """
    rule = rule_of(rule)
    try:
        value = ast.literal_eval(text.replace("\\", "\\\\") if windows else text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        value = text
    if keeps(value, rule):
        return value
    if not isinstance(value, str) and keeps(text, rule):
        return text
    refuse(name, value, rule)
