"""A font of this machine that has the letters of a text, since classes are named in any language. Nothing to run."""

import contextlib
import functools
import unicodedata
from pathlib import Path

from PIL import ImageFont

from terminal import script

CHOSEN = [None]  # by choose()
NO_LETTER = "\uffff"  # a code that stands for no letter, so that a font draws its box for missing ones


def choose(font):
    """Take a font file for all texts from now on, or end with one line where it cannot be read; None: a font is looked
    for where Pillow's own lacks a letter.
    """
    try:
        if font is not None:
            ImageFont.truetype(str(font), 20)
    except (OSError, ValueError):
        script.fail(f"FONT={font}: no font that can be read; set FONT=<path of a .ttf, .otf or .ttc file>, or None")
    CHOSEN[:] = [font]


def has(font, text):
    """Whether a Pillow font has all letters of a text; spaces and marks upon letters are no letters."""
    def drawn(letter):
        mask = font.getmask(letter)
        return mask.size, bytes(mask)

    missing = drawn(NO_LETTER)
    return all(drawn(letter) != missing for letter in set(text) if unicodedata.category(letter)[0] not in "ZMC")


def installed():
    """Yield the paths of this machine's fonts, and of those that come with matplotlib, upright and plain ones first."""
    from matplotlib import font_manager  # takes half a second, and few need it

    manager = font_manager.fontManager
    known = in_order(manager.ttflist)
    yield from known
    # Its list may be older than a font that was installed since.
    for path in set(font_manager.findSystemFonts()).difference(known):
        with contextlib.suppress(Exception):  # a font that it cannot read is no choice
            manager.addfont(path)
    yield from [path for path in in_order(manager.ttflist) if path not in known]


def in_order(fonts):
    """The paths of entries of matplotlib's list, in the order of installed()."""
    # A font of last resort has a box for every letter.
    fonts = [f for f in fonts if "lastresort" not in f.name.lower().replace(" ", "")]
    fonts = sorted(fonts, key=lambda f: (f.style != "normal", f.weight not in (400, "normal", "regular"), f.name))
    return list(dict.fromkeys(f.fname for f in fonts))


def find(text):
    """Path of a font with all letters of a text, or of the font chosen. None: Pillow's own font has them, or no font
    of this machine has; that is said, once for each set of letters.
    """
    return CHOSEN[0] or _find("".join(sorted(set(text) - set(map(chr, range(128))))))


@functools.lru_cache(maxsize=256)
def _find(letters):
    if has(ImageFont.load_default(20), letters):
        return None
    for path in installed():
        try:
            if Path(path).is_file() and has(ImageFont.truetype(path, 20), letters):
                return path
        except (OSError, ValueError):  # a font that Pillow cannot read is no choice
            continue
    complain(letters)
    return None


def complain(letters):
    """Say that no font has these letters, and what to do."""
    print(f"no font of this machine has all letters of {letters}: install one, or set FONT=<path of a .ttf or .otf>",
          flush=True)
