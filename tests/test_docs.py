"""The documents name what is there: every command, constant, script, link and test, and the README stays short."""

import ast
import functools
import re

import pytest

from running import ROOT

DOCUMENTS = ["README.md", "data/README.md", "weights/shipped/README.md",
             *(f"docs/{p.name}" for p in (ROOT / "docs").iterdir())]
# A command with its constants: python test.py CROPPED=True "WEIGHTS=a b", also over several lines.
COMMAND = re.compile(r"(?:python|torchrun \S+) (-m [\w.]+|[\w/]+\.py)((?:\s+(?:\"[^\"]*\"|[A-Z][A-Z_]*=[^\s`]*))*)")


@pytest.fixture(params=DOCUMENTS)
def document(request):
    path = ROOT / request.param
    return path, path.read_text(encoding="utf-8").replace("\\\n", "\n")


@functools.cache
def names_of(path):
    """The UPPER_CASE names that a script has on its top level."""
    nodes = ast.parse(path.read_text(encoding="utf-8")).body
    assigned = [target for n in nodes if isinstance(n, ast.Assign) for t in n.targets for target in ast.walk(t)]
    imported = [alias.asname or alias.name for n in nodes if isinstance(n, ast.ImportFrom) for alias in n.names]
    return {name for name in (*(t.id for t in assigned if isinstance(t, ast.Name)), *imported) if name.isupper()}


def commands(text):
    """[(script, names of the constants that are set)] of all commands in a document."""
    found = []
    for script, arguments in COMMAND.findall(text):
        if script not in ("-m venv", "-m pytest", "-m pip"):
            name = script.removeprefix("-m ").replace(".", "/") + ".py" if script.startswith("-m ") else script
            found.append((name, re.findall(r"(?:^|\s)\"?([A-Z][A-Z_]*)=", arguments)))
    return found


def test_commands_and_their_constants_exist(document):
    for name, constants in commands(document[1]):
        assert (ROOT / name).is_file(), f"there is no {name}"
        unknown = set(constants) - names_of(ROOT / name)
        assert not unknown, f"{name} has no {', '.join(unknown)}"
    varied = set(re.findall(r"'([A-Z][A-Z_]+)': ", document[1])) - {"M", "W"}
    assert varied <= names_of(ROOT / "train.py") | {"CLAHE"}, "no constants of train.py"


def test_scripts_links_and_rooms_exist(document):
    path, text = document
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", text):
        assert (path.parent / target).exists(), f"a link to {target}, which is not there"
    here = {p.relative_to(ROOT).as_posix() for p in ROOT.rglob("*.py") if ".venv" not in p.parts}
    for name in re.findall(r"[\w/]+\.py\b", text):
        assert name in here or any(p.endswith(f"/{name}") for p in here), f"there is no {name}"
    for name in re.findall(r"^- `(\w+/)`", text, re.MULTILINE):
        assert (ROOT / name).is_dir(), f"there is no {name}"


def test_tests_that_are_named_exist(document):
    there = "\n".join(p.read_text(encoding="utf-8") for p in (ROOT / "tests").glob("test_*.py"))
    for name in re.findall(r"`(test_\w+)`", document[1]):
        assert f"def {name}(" in there, f"there is no {name}"


def test_the_readme_has_commands_to_copy():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for lines in ("pip install -r requirements.txt\npython realtime.py",
                  "pip install -r requirements-dev.txt\npython -m pytest"):
        assert f"```\n{lines}\n```" in text
    assert len(commands(text)) > 10


def test_commands_are_the_same_in_bash_cmd_and_powershell():
    """One a line, without what one of the three reads otherwise; quotes are double, and single ones stand within."""
    for name in [*DOCUMENTS, "CONTRIBUTING.md"]:
        text = (ROOT / name).read_text(encoding="utf-8")
        blocks = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
        for line in (line for language, block in blocks if not language for line in block.splitlines()):
            assert re.match("(python|pip|uv|torchrun|ruff|git) ", line), f"{name}: {line}"
            assert not re.search(r"[&;|<>#%$`!^\\~]", line), f"{name}: {line}"
            assert not re.search(r"['(){}]", re.sub('"[^"]*"', "", line)), f"{name}: {line}"
