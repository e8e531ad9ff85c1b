"""Checks the constants of a script. Nothing to run.

    RULES = dict(EPOCHS=rules.optional((int, 1, None)), MODEL=NETWORKS, SHOW=bool, START=rules.optional(str))
    rules.check(globals())

The names in RULES are the script's constants, which its command line can set. A rule is a type (bool or str), a range
of numbers (type, minimum, maximum), in which a maximum of None is no limit, a collection of names, one of which is the
value, or a Rule.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from terminal import script


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
