"""CelebA: 202,599 photos of celebrities with 40 attributes, for research only. Its attribute Male makes the classes.

    python data/celeba.py SOURCE=~/Downloads/celeba

Reads img_align_celeba/ (or img_align_celeba.zip), list_attr_celeba.txt, and where they are there too
list_eval_partition.txt (its test photos go to data/test; without it one in ten does, by a hash of the name) and
identity_CelebA.txt (the persons: a split keeps a person on one side).
"""

import importing
from faces import people
from importing import Photo
from terminal import script

# ------------------------------------------------------------------------------------------------
SOURCE = "celeba"  # folder with the files from https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html, in any subfolders
RAW_DIR = "data/raw"
TEST_DIR = "data/test"
PEOPLE = people.PEOPLE
TEST_RATIO = 0.1  # only without the official partition
# ------------------------------------------------------------------------------------------------

HINT = "get CelebA (aligned and cropped images, attributes) from https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html"


def read_table(path):
    """The words of each line of a CelebA list; copies with commas instead of spaces are read too."""
    return [line.replace(",", " ").split() for line in path.read_text(encoding="utf-8-sig").splitlines()]


def read_pairs(source, *names):
    """{photo: value} of a list of two columns, or None where the list is not there."""
    path = importing.find(source, *names)
    return {w[0]: w[1] for w in read_table(path) if len(w) == 2 and w[1].isdecimal()} if path else None


def photos(source, skipped):
    """The Photos that the list of attributes names."""
    labels = importing.find(source, "list_attr_celeba.txt", "list_attr_celeba.csv")
    if not labels:
        script.fail(f"{source} has no list_attr_celeba.txt: {HINT}")
    images = importing.picture_folder(source, "img_align_celeba", HINT, RAW_DIR, TEST_DIR)
    sides = read_pairs(source, "list_eval_partition.txt", "list_eval_partition.csv")
    persons = read_pairs(source, "identity_CelebA.txt") or {}
    table = read_table(labels)
    header = next((words for words in table if "Male" in words), None)
    if header is None:
        script.fail(f"{labels} has no column Male: {HINT}")
    attributes = [word for word in header if word != "image_id"]
    male = attributes.index("Male") + 1
    for words in table[table.index(header) + 1:]:
        if len(words) != len(attributes) + 1 or words[male] not in ("1", "-1"):
            skipped["malformed lines"].append(words[0] if words else "an empty line")
            continue
        photo = words[0]
        name, person, class_name = f"celeba-{photo}", persons.get(photo, ""), "man" if words[male] == "1" else "woman"
        if sides is None:
            test = importing.in_test(person or name, TEST_RATIO)
        elif sides.get(photo) in ("0", "1", "2"):
            test = sides[photo] == "2"
        else:
            skipped["without a partition"].append(photo)
            continue
        yield Photo(images / photo, "test" if test else "raw", class_name, name, "celeba", person)


def main():
    importing.bring_in(globals(), HINT, photos)


if __name__ == "__main__":
    script.override(globals(), fixed=("HINT",))
    script.run(main)
