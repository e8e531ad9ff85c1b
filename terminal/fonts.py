"""Finds a font with the letters of a text, since classes may have names in any language. Nothing to run."""

import contextlib
import functools
import unicodedata
from pathlib import Path

from PIL import ImageFont

from terminal import script

chosen = None  # path of the font, set by choose()
NO_LETTER = "\uffff"  # no letter in any font, so that a font draws its box for missing letters


def choose(font):
    """Use a font file for all texts from now on; ends the program if it cannot be read. None: search for a font when
    Pillow's own lacks a letter.
    """
    global chosen
    try:
        if font is not None:
            ImageFont.truetype(str(font), 20)
    except (OSError, ValueError):
        script.fail(f"FONT={font}: not a readable font; set FONT=<path of a .ttf, .otf or .ttc file>, or None")
    chosen = font


def has(font, text):
    """Whether a Pillow font has all letters of a text; spaces and combining marks are ignored."""
    def drawn(letter):
        mask = font.getmask(letter)
        return mask.size, bytes(mask)

    missing = drawn(NO_LETTER)
    return all(drawn(letter) != missing for letter in set(text) if unicodedata.category(letter)[0] not in "ZMC")


def installed():
    """Yield the paths of this machine's fonts and matplotlib's, upright and regular ones first."""
    from matplotlib import font_manager  # here, since its import takes half a second and is rarely needed

    manager = font_manager.fontManager
    known = in_order(manager.ttflist)
    yield from known
    # Its list may be older than a font that was installed since.
    for path in set(font_manager.findSystemFonts()).difference(known):
        with contextlib.suppress(Exception):  # a font that it cannot read
            manager.addfont(path)
    yield from [path for path in in_order(manager.ttflist) if path not in known]


def in_order(fonts):
    """The paths of entries of matplotlib's list, in the order in which installed() yields them."""
    # A "last resort" font has a box for every letter.
    fonts = [f for f in fonts if "lastresort" not in f.name.lower().replace(" ", "")]
    fonts = sorted(fonts, key=lambda f: (f.style != "normal", f.weight not in (400, "normal", "regular"), f.name))
    return list(dict.fromkeys(f.fname for f in fonts))


def find(text):
    """The path of the chosen font, or of a font with all letters of a text. None: Pillow's own font has them, or no
    font of this machine; the latter is printed, once per set of letters.
    """
    letters = sorted({letter for letter in text if not letter.isascii()})
    return chosen or search("".join(letters))


@functools.lru_cache(maxsize=256)
def search(letters):
    """find() among Pillow's own font and those of this machine. `letters`: not ASCII, each once, sorted."""
    if has(ImageFont.load_default(20), letters):
        return None
    for path in installed():
        try:
            if Path(path).is_file() and has(ImageFont.truetype(path, 20), letters):
                return path
        except (OSError, ValueError):  # Pillow cannot read this font
            continue
    complain(letters)
    return None


def complain(letters):
    """Print that no font has these letters, and what to do."""
    print(f"no font of this machine has all letters of {letters}: install one, or set FONT=<path of a .ttf or .otf>",
          flush=True)
