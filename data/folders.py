"""Photos that are sorted into one folder per class: put them where the other scripts look.

    python data/folders.py SOURCE=~/photos                             # ~/photos/<class>/* -> data/raw/<class>/
    python data/folders.py SOURCE=~/paper TO=test "RENAME={'M': 'man', 'W': 'woman'}"

Nothing of SOURCE is changed. With TEST_RATIO a share of the photos goes to data/test, all photos of a person (names
like George_Bush_0007.jpg) to one side.
"""

from pathlib import Path

import importing
from faces import people, reading
from terminal import script
from terminal.files import class_folders, normal

# ------------------------------------------------------------------------------------------------
SOURCE = "photos"  # folder or archive that has one subfolder per class
RAW_DIR = "data/raw"
TEST_DIR = "data/test"
TO = "raw"  # "raw", or "test" for photos that training must never see
TEST_RATIO = 0.0  # with TO="raw": share of them that goes to TEST_DIR instead, 0..1
RENAME = {}  # class of each subfolder where it has another name, as {"M": "man", "W": "woman"}
PREFIX = ""  # put before every name, so that photos of several sources don't collide, as "news-"
# ------------------------------------------------------------------------------------------------


def main():
    if TO not in ("raw", "test"):
        script.fail(f"TO={TO}: choose raw or test")
    source = importing.source_folder(SOURCE, "make a folder with one subfolder per class")
    source = importing.inner_folder(source)
    found = reading.class_photos(source, "it must have one subfolder per class")
    rename = {normal(old): new for old, new in RENAME.items()}
    unknown = set(rename) - set(found)
    if unknown:
        script.fail(f"RENAME speaks of {', '.join(sorted(unknown))}, which {source} does not have: "
                    f"it has {', '.join(found)}")
    rows = []
    photos = [(source / photo.relative_to(source).parts[0], photo) for name in found for photo in found[name]]
    persons = people.people_of([f"{folder.name}/{photo.name}" for folder, photo in photos])
    person = {i: name for name, found in persons.items() for i in found}
    for i, (folder, photo) in enumerate(photos):
        name = PREFIX + "__".join(photo.relative_to(folder).parts)
        test = TO == "test" or importing.in_test(person.get(i, photo.name), TEST_RATIO)
        # The name alone would not do: two class folders may both have a 1.jpg.
        rows.append((photo, "test" if test else "raw", rename.get(normal(folder.name), normal(folder.name)), name))
    importing.place(rows, RAW_DIR, TEST_DIR, by_class=True)
    for folder in (RAW_DIR, TEST_DIR):
        if Path(folder).is_dir():
            print(f"{folder} now has the classes {', '.join(class_folders(folder, ''))}")


if __name__ == "__main__":
    script.override(globals())
    script.run(main)
