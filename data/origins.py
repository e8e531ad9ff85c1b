"""Portraits sorted by class whose names state the origin of the person, as caucasian_04271ce4af.jpg.

    python data/origins.py SOURCE=~/Downloads/origins      # the folder, or an archive of it

Reads man/<origin>_<id>.jpg and woman/<origin>_<id>.jpg. Writes data/raw/{man,woman} and data/people.csv, the origin
there as ethnicity, spelt as the other importers spell it, without an age. With TEST_RATIO a share of the photos goes
to data/test, by a hash of the name.
"""

import re

import importing
from faces import people
from importing import Photo
from terminal import script

# ------------------------------------------------------------------------------------------------
SOURCE = "origins"  # folder or archive that has the subfolders man and woman
RAW_DIR = "data/raw"
TEST_DIR = "data/test"
PEOPLE = people.PEOPLE
TEST_RATIO = 0.0  # share of the photos that goes to TEST_DIR instead, 0..1
# ------------------------------------------------------------------------------------------------

GENDERS = ("man", "woman")
ETHNICITIES = {"asian": "Asian", "black": "Black", "caucasian": "White", "hispanic": "Hispanic", "indian": "Indian",
               "mideastern": "Middle Eastern"}
NAME = re.compile(rf"({'|'.join(ETHNICITIES)})_\w+\.jpe?g", re.ASCII | re.IGNORECASE)


def photos(source, skipped):
    """The Photos in the folders of GENDERS; those whose names state no known origin are skipped."""
    for gender in GENDERS:
        folder = importing.find(source, gender)
        if not folder or not folder.is_dir():
            script.fail(f"{source} has no folder {gender}: it needs {' and '.join(GENDERS)}")
        for photo in sorted(folder.iterdir()):
            match = NAME.fullmatch(photo.name)
            if match:
                name = f"origins-{photo.name}"
                side = "test" if importing.in_test(name, TEST_RATIO) else "raw"
                yield Photo(photo, side, gender, name, "origins", ethnicity=ETHNICITIES[match[1].lower()])
            elif photo.suffix.lower() in (".jpg", ".jpeg", ".png"):
                skipped["names without a known origin"].append(f"{gender}/{photo.name}")


def main():
    importing.bring_in(globals(), "make a folder with the subfolders man and woman", photos)


if __name__ == "__main__":
    script.override(globals(), fixed=("GENDERS", "ETHNICITIES"))
    script.run(main)
