"""Names of files and folders: Unicode, unusual characters, and what systems leave everywhere. Nothing to run."""

import hashlib
import os
import re
import unicodedata
from pathlib import Path

UNSURE = "unsure"  # label of a face below the threshold, so no class can have this name
SYSTEM_NAMES = {"__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "picasa.ini", "$recycle.bin",
                "system volume information", "recycler", "lost+found", "found.000", "@eadir", "#recycle", "#snapshot"}


def normal(name, form="NFC"):
    """A name in one Unicode form, since some systems write ñ as one character, others as n and a tilde."""
    return unicodedata.normalize(form, name)


def name_digest(name):
    """A digest of 16 characters of a name, or of a path within a folder, for the names of temporary files, and of crops
    of photos with long names."""
    return hashlib.sha256(os.fsencode(name)).hexdigest()[:16]


def safe_name(name):
    """A file or folder name that is valid on any disk and in a record: `name` itself, or a short one with a digest if
    `name` is not valid text, too long, or has a backslash or a line break."""
    text = os.fsencode(name).decode("utf-8", "ignore")
    if text == name and len(os.fsencode(name)) <= 255 and not set(name) & set("\\\r\n"):
        return name
    ending = Path(name).suffix if re.fullmatch(r"\.[a-zA-Z0-9]{1,9}", Path(name).suffix) else ""
    start = re.sub(r"[\\\r\n]", " ", text.removesuffix(ending)[:40])
    return f"{start or 'photo'}-{name_digest(name)}{ending}"


def is_system(name):
    """Whether a file or folder is one that operating systems, drives or editors leave everywhere."""
    return name.startswith(".") or name.lower() in SYSTEM_NAMES
