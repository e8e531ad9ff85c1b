"""Imports published data sets of faces of men and women.

    python data/sets.py SET=utkface SOURCE=~/Downloads/UTKFace      # the folder, or an archive of it

SOURCE is only read. It writes data/raw/{man,woman} and data/test/{man,woman}, and the source, person, age and ethnicity
that the set states of each photo into data/people.csv. Each function below describes the files of its set, and which
photos are for the test. All sets but FairFace are for research only: data/README.md has the terms.
"""

import importing  # isort: skip  # first, since it imports terminal/script.py

import csv
import hashlib
import io
import re
from collections import Counter
from pathlib import Path

from faces import people, reading
from importing import LabelledPhoto
from terminal import rules, script
from terminal.names import is_system
from terminal.places import PLACES

# ------------------------------------------------------------------------------------------------
SET = "utkface"  # utkface, fairface, celeba, adience, lfw, bfw, origins, allagefaces or scut
SOURCE = None  # folder or archive of the set; None: a folder with the name SET
RAW_DIR = PLACES["RAW_DIR"]
TEST_DIR = PLACES["TEST_DIR"]
PEOPLE = people.PEOPLE
TEST_RATIO = 0.1  # share for the test, 0..1, of sets without a test of their own: utkface, lfw, origins, celeba
LISTS = {"man": "male_names.txt", "woman": "female_names.txt"}  # for lfw: names of each class; here, or in SOURCE
# ------------------------------------------------------------------------------------------------

ORIGINS = {"asian": "Asian", "black": "Black", "caucasian": "White", "hispanic": "Hispanic", "indian": "Indian",
           "mideastern": "Middle Eastern", "white": "White"}


def side(key):
    """"test" for a share TEST_RATIO of all keys, else "raw". A key is the name of a photo or of a person."""
    return "test" if importing.in_test(key, TEST_RATIO) else "raw"


def md5(text):
    """The MD5 digest of a text, as a number."""
    return int(hashlib.md5(text.encode(), usedforsecurity=False).hexdigest(), 16)


def needed(root, *names):
    """The file or folder called one of `names` in `root`, see importing.find(); without it the program ends."""
    path = importing.find(root, *names)
    if path is None:
        script.fail(f"{root} has no {names[0]}: {hint()}")
    return path


def text_of(path):
    """The text of a list, which must be in UTF-8."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        script.fail(f"{path} is not a text in UTF-8 ({error.reason}): download it again, or save it in UTF-8")


def rows_of(path, delimiter=","):
    """Yield the rows of a table, a dict each, after their place in it, such as "train.csv line 2"."""
    table = csv.DictReader(io.StringIO(text_of(path), newline=""), delimiter=delimiter)
    try:
        for row in table:
            yield f"{path.name} line {table.line_num}", row
    except csv.Error as error:
        script.fail(f"{path} is not a table ({error}): download it again")


def utkface(root, skipped):
    """UTKFace: 23,700 face chips, [age]_[gender]_[ethnicity]_[date].jpg or .jpg.chip.jpg, gender 0 male, 1 female.

    A chip and the whole photo from which it was cut are on the same side.
    """
    ethnicities = ("White", "Black", "Asian", "Indian", "Other")
    for path in reading.list_photos(root):
        match = re.fullmatch(r"(\d{1,3})_([01])_([0-4])_\d+\.jpg(\.chip\.jpg)?", path.name, re.ASCII)
        if not match:
            skipped["malformed names"].append(path.name)
            continue
        chip = path.name if match[4] else path.name + ".chip.jpg"
        yield LabelledPhoto(path, side(chip), ("man", "woman")[int(match[2])], path.name, "utkface",
                            age=str(int(match[1])), ethnicity=ethnicities[int(match[3])])


def fairface(root, skipped):
    """FairFace: 97,698 faces of seven ethnicities: fairface_label_train.csv and _val.csv (file,age,gender,race), and
    the photos in train/ and val/; val is the test. Take the photos with padding 1.25, which suit the detectors.
    """
    classes = {"Male": "man", "Female": "woman"}
    for part, where in (("train", "raw"), ("val", "test")):
        labels, images = needed(root, f"fairface_label_{part}.csv"), needed(root, part)
        for line, row in rows_of(labels):
            match = re.fullmatch(rf"{part}/(\w+\.jpg)", row.get("file") or "")
            if not match or row.get("gender") not in classes:
                skipped["malformed lines"].append(line)
                continue
            yield LabelledPhoto(images / match[1], where, classes[row["gender"]], f"fairface-{part}-{match[1]}",
                                "fairface", age=row.get("age") or "", ethnicity=row.get("race") or "")


def celeba(root, skipped):
    """CelebA: 202,599 photos of celebrities: img_align_celeba/ (or its .zip), list_attr_celeba.txt, whose attribute
    Male gives the classes, and, if they exist, list_eval_partition.txt (2: test) and identity_CelebA.txt (persons).
    """
    labels = needed(root, "list_attr_celeba.txt", "list_attr_celeba.csv")
    images = importing.picture_folder(root, "img_align_celeba", hint(), RAW_DIR, TEST_DIR)
    parts = celeba_column(root, "list_eval_partition.txt", "list_eval_partition.csv")
    persons = celeba_column(root, "identity_CelebA.txt") or {}
    for photo, class_name in celeba_classes(labels, skipped):
        name, person = f"celeba-{photo}", persons.get(photo, "")
        if parts is None:
            where = side(person or name)
        elif parts.get(photo) in ("0", "1", "2"):
            where = "test" if parts[photo] == "2" else "raw"
        else:
            skipped["without a partition"].append(photo)
            continue
        yield LabelledPhoto(images / photo, where, class_name, name, "celeba", person)


def celeba_classes(path, skipped):
    """Yield (photo, class) of each line of list_attr_celeba.txt, whose header names the attributes."""
    table = celeba_table(path)
    header = next((words for words in table if "Male" in words), None)
    if header is None:
        script.fail(f"{path} has no column Male: {hint()}")
    attributes = [word for word in header if word != "image_id"]
    male = attributes.index("Male") + 1
    for words in table[table.index(header) + 1:]:
        if len(words) != len(attributes) + 1 or words[male] not in ("1", "-1"):
            skipped["malformed lines"].append(words[0] if words else "an empty line")
        else:
            yield words[0], "man" if words[male] == "1" else "woman"


def celeba_table(path):
    """The words of each line of a CelebA list, separated by spaces, or by commas as in some copies."""
    return [line.replace(",", " ").split() for line in text_of(path).splitlines()]


def celeba_column(root, *names):
    """{photo: value} of a CelebA list of two columns, or None if the list does not exist."""
    path = importing.find(root, *names)
    if path is None:
        return None
    return {words[0]: words[1] for words in celeba_table(path) if len(words) == 2 and words[1].isdecimal()}


def adience(root, skipped):
    """Adience: about 26,000 faces of 2,284 people: fold_0_data.txt to fold_4_data.txt, and the photos in faces/ or
    aligned/. No person is in two folds; fold 4 is the test.
    """
    classes, taken = {"m": "man", "f": "woman"}, Counter()
    folder, prefix = "faces", "coarse_tilt_aligned_face"
    if importing.find(root, "aligned") and not importing.find(root, "faces"):
        folder, prefix = "aligned", "landmark_aligned_face"
    images = importing.picture_folder(root, folder, hint(), RAW_DIR, TEST_DIR)
    for number in range(5):
        for line, row in rows_of(needed(root, f"fold_{number}_data.txt"), "\t"):
            user, person, photo = (row.get(k) or "" for k in ("user_id", "face_id", "original_image"))
            # A path from these words must not lead out of the folder.
            if not re.fullmatch(r"[\w@.-]+", user) or not person.isdecimal() or not re.fullmatch(r"[\w.-]+", photo):
                skipped["malformed lines"].append(line)
            elif row.get("gender") not in classes:
                skipped["faces without a gender"].append(photo)
            else:
                taken[person] += 1
                name = f"adience-{person}_{taken[person]:04d}.jpg"
                yield LabelledPhoto(images / user / f"{prefix}.{person}.{photo}", "test" if number == 4 else "raw",
                                    classes[row["gender"]], name, "adience", person,
                                    age="-".join(re.findall(r"\d+", row.get("age") or "")))


def lfw(root, skipped):
    """Labeled Faces in the Wild: 13,233 news photos of 5,749 people: lfw/<Name>/<Name>_0001.jpg, and the lists of names
    in LISTS: each line has a person (Ann Veneman, Ann_Veneman) or a photo (Ann_Veneman_0003.jpg).
    """
    inner = root / "lfw" if (root / "lfw").is_dir() else root
    class_of, twice = {}, set()
    for class_name, file_name in LISTS.items():
        listed = lfw_names(root, file_name)
        twice |= listed & class_of.keys()
        class_of |= dict.fromkeys(listed, class_name)
    folders = sorted(p for p in inner.iterdir() if p.is_dir() and not is_system(p.name))
    for folder in folders:
        person = folder.name
        if person not in class_of:
            skipped["people on no list"].append(person)
        for photo in sorted(p for p in folder.glob("*.jpg") if not is_system(p.name)):
            if not re.fullmatch(re.escape(person) + r"_\d{4}\.jpg", photo.name):
                skipped["malformed names"].append(photo.name)
            elif person in class_of and person not in twice:
                yield LabelledPhoto(photo, side(person), class_of[person], photo.name, "lfw", person.replace("_", " "))
    skipped["people on two lists"] = sorted(twice)
    skipped["listed people without photos"] = sorted(class_of.keys() - {folder.name for folder in folders})


def lfw_names(root, file_name):
    """The people of a list, spelt as in file names: set of str."""
    path = Path(file_name).expanduser()
    path = path if path.is_file() else importing.find(root, path.name)
    if path is None:
        script.fail(f"there is no list of names {file_name}: write one name per line, or set LISTS")
    lines = text_of(path).splitlines()
    words = [re.split(r"\t|,", line)[0].strip().replace(" ", "_") for line in lines]
    return {re.sub(r"_\d{4}(\.jpg)?$", "", word) for word in words if word and not word.startswith("#")}


def bfw(root, skipped):
    """Balanced Faces in the Wild: 20,000 stills of 800 people: <origin>_<males|females>/<person>/*.jpg. One person in
    five is for the test. Robinson et al., "Face Recognition: Too Bias, or Not Too Bias?", CVPR workshops 2020.
    """
    groups = [(origin, sex) for origin in ("asian", "black", "indian", "white") for sex in ("females", "males")]
    for origin, sex in groups:
        group = f"{origin}_{sex}"
        folder = importing.find(root, group)
        if folder is None:
            skipped["missing groups"].append(group)
            continue
        # Persons of two groups may have the same name, and photos of two persons too.
        for photo in sorted(path for path in folder.glob("*/*.jpg") if not is_system(path.name)):
            person = photo.parent.name
            where = "test" if md5(person) % 5 == 0 else "raw"
            class_name = "man" if sex == "males" else "woman"
            yield LabelledPhoto(photo, where, class_name, f"bfw-{group}-{person}-{photo.name}", "bfw",
                                f"{group} {person}", ethnicity=ORIGINS[origin])
    if len(skipped["missing groups"]) == len(groups):
        script.fail(f"{root} has no folders such as asian_females/<person>/*.jpg: {hint()}")


def origins(root, skipped):
    """Portraits with the person's origin in their names: man/<origin>_<id>.jpg and woman/<origin>_<id>.jpg."""
    for class_name in ("man", "woman"):
        folder = importing.find(root, class_name)
        if not folder or not folder.is_dir():
            script.fail(f"{root} has no folder {class_name}: it needs man and woman")
        for photo in sorted(folder.iterdir()):
            match = re.fullmatch(r"([a-z]+)_\w+\.jpe?g", photo.name, re.ASCII | re.IGNORECASE)
            if match and match[1].lower() in ORIGINS:
                name = f"origins-{photo.name}"
                yield LabelledPhoto(photo, side(name), class_name, name, "origins", ethnicity=ORIGINS[match[1].lower()])
            elif photo.suffix.lower() in (".jpg", ".jpeg", ".png"):
                skipped["names without a known origin"].append(f"{class_name}/{photo.name}")


def allagefaces(root, skipped):
    """All-Age-Faces: 13,322 photos of people of 2 to 80 years, nearly all from East Asia:
    "original images"/00000A02.jpg, number and age; numbers up to 7380 are women. One in ten is for the test. Cheng et
    al., "Exploiting Effective Facial Patches for Robust Gender Recognition", Tsinghua Science and Technology 2019.
    """
    # Photos whose labels look wrong or doubtful.
    doubtful = {"05400A41", "06984A65", "07313A78", "11414A43", "11321A42",
                "01112A18", "07132A69", "07170A70", "11357A42", "03589A31"}
    images = importing.picture_folder(root, "original images", hint(), RAW_DIR, TEST_DIR)
    for photo in sorted(path for path in images.iterdir() if not is_system(path.name)):
        match = re.fullmatch(r"(\d{5})A(\d{2})\.jpg", photo.name, re.ASCII)
        if not match:
            skipped["malformed names"].append(photo.name)
        elif photo.stem in doubtful:
            skipped["photos whose labels are doubtful"].append(photo.name)
        else:
            where = "test" if md5(photo.stem) % 10 == 0 else "raw"
            class_name = "woman" if int(match[1]) <= 7380 else "man"
            yield LabelledPhoto(photo, where, class_name, f"allagefaces-{photo.name}", "allagefaces",
                                age=str(int(match[2])))


def scut(root, skipped):
    """SCUT-FBP5500: 5,500 frontal photos of people of 15 to 60 years: Images/AF1.jpg, the first letter Asian or
    Caucasian, the second female or male. All are for training. Liang et al., "SCUT-FBP5500: A Diverse Benchmark Dataset
    for Multi-Paradigm Facial Beauty Prediction", ICPR 2018.
    """
    images = importing.picture_folder(root, "Images", hint(), RAW_DIR, TEST_DIR)
    for photo in sorted(path for path in images.iterdir() if not is_system(path.name)):
        match = re.fullmatch(r"([AC])([FM])\d+\.jpg", photo.name)
        if not match:
            skipped["malformed names"].append(photo.name)
            continue
        class_name = "woman" if match[2] == "F" else "man"
        ethnicity = "Asian" if match[1] == "A" else "White"
        yield LabelledPhoto(photo, "raw", class_name, f"scut-{photo.name}", "scut", ethnicity=ethnicity)


WHERE = {utkface: "UTKFace (Aligned&Cropped Faces) from https://susanqq.github.io/UTKFace/",
         fairface: "the photos and the two label files from https://github.com/joojs/fairface",
         celeba: "CelebA (aligned and cropped images, attributes) from https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html",
         adience: "Adience from https://talhassner.github.io/home/projects/Adience/Adience-data.html",
         lfw: "lfw.tgz (Labeled Faces in the Wild; https://www.kaggle.com/datasets/jessicali9530/lfw-dataset)",
         bfw: "the folder bfw from https://github.com/jxngs/Facial-Recognition-Comparative-Analysis",
         origins: "or make a folder with the subfolders man and woman",
         allagefaces: "All-Age-Faces from https://github.com/JingchunCheng/All-Age-Faces-Dataset",
         scut: "SCUT-FBP5500 v2 from https://github.com/HCIILAB/SCUT-FBP5500-Database-Release"}
SETS = {function.__name__: function for function in WHERE}


def hint():
    """Where to get SET."""
    return f"get {WHERE[SETS[SET]]}"


RULES = dict(SET=SETS, SOURCE=rules.optional(str), RAW_DIR=str, TEST_DIR=str, PEOPLE=str, TEST_RATIO=(float, 0, 1),
             LISTS=rules.TEXTS)


def main():
    rules.check(globals())
    classes = tuple(LISTS) if SET == "lfw" else ("man", "woman")
    importing.bring_in({**globals(), "SOURCE": SOURCE or SET}, hint(), SETS[SET], classes)


if __name__ == "__main__":
    rules.override(globals())
    script.run(main)
