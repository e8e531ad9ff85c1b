"""UTKFace: some 23,700 face chips with age, gender and ethnicity in the file name, for research only.

    python data/utkface.py SOURCE=~/Downloads/UTKFace      # the folder, or its .tar.gz

Reads [age]_[gender]_[ethnicity]_[date].jpg (or .jpg.chip.jpg), gender 0 male and 1 female. Writes
data/raw/{man,woman}, data/test/{man,woman} (one in ten, by a hash of the name) and data/people.csv.
"""

import re

import importing
from faces import people, reading
from importing import Photo
from terminal import script

# ------------------------------------------------------------------------------------------------
SOURCE = "utkface"  # folder or archive from https://susanqq.github.io/UTKFace/ ("Aligned&Cropped Faces")
RAW_DIR = "data/raw"
TEST_DIR = "data/test"
PEOPLE = people.PEOPLE
TEST_RATIO = 0.1  # 0..1
# ------------------------------------------------------------------------------------------------

GENDERS = ("man", "woman")
ETHNICITIES = ("White", "Black", "Asian", "Indian", "Other")
NAME = re.compile(r"(\d{1,3})_([01])_([0-4])_\d+\.jpg(\.chip\.jpg)?", re.ASCII)


def photos(source, skipped):
    """The Photos in SOURCE; names that say no gender are skipped."""
    for path in reading.list_photos(source):
        match = NAME.fullmatch(path.name)
        if not match:
            skipped["malformed names"].append(path.name)
            continue
        # One hash for a chip and for the whole photo it was cut from.
        key = path.name if match[4] else path.name + ".chip.jpg"
        side = "test" if importing.in_test(key, TEST_RATIO) else "raw"
        yield Photo(path, side, GENDERS[int(match[2])], path.name, "utkface", age=str(int(match[1])),
                    ethnicity=ETHNICITIES[int(match[3])])


def main():
    importing.bring_in(globals(), "get UTKFace from https://susanqq.github.io/UTKFace/", photos)


if __name__ == "__main__":
    script.override(globals(), fixed=("GENDERS", "ETHNICITIES"))
    script.run(main)
