"""Plots by matplotlib: without a display, with fonts that have the letters, written whole. Nothing to run."""

import re
import warnings

from terminal import fonts
from terminal.files import atomic

# matplotlib takes a second to import, so each function imports what it needs.

DPI = 200  # of all plots: sharp across the page of a report
ENDINGS = ("png", "pdf")  # file formats that PLOT_FORMAT of a script can name
LONGEST = 40  # letters of a name that are shown; longer names would leave no room for the curves
complained = set()  # missing letters that have been reported


def figure(rows=1, columns=1, size=(5.0, 4.6)):
    """(figure, flat list of axes), `size` inches per panel; without pyplot, which would need a display or keep figures.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    fig = Figure(figsize=(size[0] * columns, size[1] * rows), layout="constrained")
    FigureCanvasAgg(fig)
    return fig, list(fig.subplots(rows, columns, squeeze=False).flat)


def shown_name(text, longest=LONGEST):
    """A name for a plot: at most `longest` letters, with dollar signs escaped, since they would start a formula."""
    text = str(text).encode("utf-8", "replace").decode()
    text = text if len(text) <= longest else text[:longest - 1] + "…"
    return text.replace("$", r"\$")


def legend(axis, **settings):
    """A legend of all labels. matplotlib leaves out labels that begin with "_", so these get a space in front."""
    for artist in axis.get_children():
        label = str(artist.get_label())
        if label.startswith("_") and not label.startswith("_child"):
            artist.set_label(f" {label}")
    axis.legend(**settings)


def use_font(path):
    """Use a .ttf or .otf file, in all plots from now on, for letters that matplotlib's own font lacks."""
    import matplotlib
    from matplotlib import font_manager

    fonts.choose(path)  # ends the program if it cannot be read
    font_manager.fontManager.addfont(path)
    name = font_manager.FontProperties(fname=path).get_name()
    matplotlib.rcParams["font.family"] = [*matplotlib.rcParams["font.family"], name]


def save(fig, path):
    """Write a figure, as PNG or PDF by the suffix of `path`. Letters that its fonts lack come from other fonts of the
    machine; if there is none, that is printed once."""
    from matplotlib.text import Text

    with atomic(path) as temporary:
        missing = draw(fig, temporary)
        families = families_with(missing)
        if families:
            for text in fig.findobj(Text):
                text.set_fontfamily([*text.get_fontfamily(), *families])
            missing = draw(fig, temporary)
    if missing - complained:
        fonts.complain("".join(sorted(missing - complained)))
        complained.update(missing)


def draw(fig, path):
    """Write a figure. Returns the set of letters that its fonts lack."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        # A PNG is as small as with the default level of 6, and takes four fifths of the time.
        more = {"pil_kwargs": {"compress_level": 4}} if path.suffix == ".png" else {}
        fig.savefig(path, dpi=DPI, **more)
    missing = set()
    for warning in caught:
        found = re.match(r"Glyph (\d+) .*missing from", str(warning.message))
        if found:
            missing.add(chr(int(found[1])))
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    return missing


def families_with(letters):
    """Names of fonts of this machine that together have as many of the letters as possible."""
    from matplotlib import font_manager

    if not letters:
        return []  # before the fonts are listed, which takes time
    left, names = {ord(letter) for letter in letters}, []
    for path in fonts.installed():
        try:
            here = left & font_manager.get_font(path).get_charmap().keys()
        except (OSError, RuntimeError):  # a font that cannot be read
            continue
        if here:
            names.append(font_manager.FontProperties(fname=path).get_name())
            left -= here
        if not left:
            break
    return names
