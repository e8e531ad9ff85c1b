"""Step 2: face crops -> training and validation.

    python validation.py       processed/faces/<class>/  ->  processed/train/<class>/ and processed/valid/<class>/

Every class of every source is split in the same proportion, by hard links (copies where the disk has none): the crops
stay where they are. Near-copies of one photo, and photos of one person, stay on one side, since a network that has seen
a face in training is not tested by it. The same crops and constants give the same split; others replace it whole.
"""

from terminal import script  # isort: skip  # first, see terminal/script.py

import os

if __name__ == "__main__":  # before NumPy is imported: threads share the work, its own would wait for each other
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# ruff: noqa: E402
import hashlib
import itertools
import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from tqdm import tqdm

from faces import copies, people, reading
from processed import FACES_DIR, RAW_DIR
from terminal import files, rules
from terminal.files import SPLIT

# ------------------------------------------------------------------------------------------------
TRAIN_DIR = "processed/train"
VALID_DIR = "processed/valid"
VALID_RATIO = 0.2  # share of each class that goes to validation, between 0 and 1 (the paper's: 0.2)
SEED = 0  # another number gives another split
PEOPLE = people.PEOPLE  # the photos of each person; without it persons are not known
# ------------------------------------------------------------------------------------------------

FILL_FACES = "run 'python processed.py', which fills it"


def assign(groups, keys, labels, ratio, seed):
    """Which crops are for validation: bool [N]. A group stays whole; each label gets `ratio` as nearly as that allows.

    keys: "class/name" of each crop; labels: its source and class. The order is drawn from the names and the seed, so
    it does not depend on the file system. Groups are dealt out first, in proportion; single crops then fill the rest.
    """
    total, dealt, taken = Counter(labels), Counter(), Counter()
    most = {c: n - 1 for c, n in total.items()}
    target = {c: min(max(1, round(n * ratio)), most[c]) for c, n in total.items()}
    valid = np.zeros(len(keys), bool)

    def draw(group):
        name = min(keys[i] for i in group)  # which need not be text
        return len(group) == 1, hashlib.blake2b(f"{seed}/{name}".encode(errors="surrogateescape")).digest()

    def fits(size, limit):
        return all(taken[c] + k <= limit[c] for c, k in size.items())

    def take(group, size):
        valid[group] = True
        taken.update(size)

    order = [(group, Counter(labels[i] for i in group)) for group in sorted(groups, key=draw)]
    for group, size in order:
        dealt.update(size)
        without = sum(abs(taken[c] - ratio * dealt[c]) for c in size)
        with_it = sum(abs(taken[c] + k - ratio * dealt[c]) for c, k in size.items())
        if fits(size, target) and (len(group) == 1 or with_it < without):
            take(group, size)
    for group, size in order:  # where single crops were too few
        if not valid[group[0]] and fits(size, target):
            take(group, size)
    for c in sorted(total):  # every group is larger than the class's share: more for validation than nothing
        if not taken[c]:
            left = [(group, size) for group, size in order if not valid[group[0]] and size[c] and fits(size, most)]
            if left:
                take(*min(left, key=lambda entry: len(entry[0])))
    return valid


def describe(kind, groups, keys):
    """One line on the groups that have more than one crop."""
    sizes = [len(g) for g in groups if len(g) > 1]
    line = f"{kind}: {len(sizes)} groups with {sum(sizes)} crops"
    return line + (f", the largest of {max(sizes)} ({keys[max(groups, key=len)[0]]})" if sizes else "")


def split(crops, table):
    """Decide the split. crops: {"class/name": Path}; table: of people.read(). Returns ({"class/name": True for
    validation}, report lines)."""
    with ThreadPoolExecutor(os.cpu_count() or 2) as pool:  # OpenCV lets other threads run
        outlines, small, digests, read = copies.thumbnails(list(crops.values()), pool)
        keys, unread = list(itertools.compress(crops, read)), list(itertools.compress(crops, ~read))
        labels = [key.split("/", 1)[0] for key in keys]
        for name in sorted({key.split("/", 1)[0] for key in unread} - set(labels)):
            script.fail(f"no crop of {name} can be read: delete {crops[unread[0]].parent} and {FILL_FACES}")
        pairs = copies.near_copies(outlines, small, digests, pool)
        pairs = np.concatenate([pairs, copies.bursts(keys, outlines, pool)])
    persons = list(people.persons(table, [Path(key) for key in keys]).values())
    same = np.array([(group[0], i) for group in persons for i in group[1:]], np.int64).reshape(-1, 2)
    copied = copies.components(len(keys), pairs)
    groups = copies.components(len(keys), np.concatenate([pairs, same]))
    # By source too: a large group takes more than the share of a class, which a source of single photos has filled.
    sources = [(people.of(table, Path(key)) or people.Person()).source for key in keys]
    valid = assign(groups, keys, list(zip(sources, labels, strict=True)), VALID_RATIO, SEED)

    report = [describe("near-copies", copied, keys), describe("one person", persons, keys),
              describe("kept on one side in all", groups, keys)]
    conflicts = [g for g in copied if len({labels[i] for i in g}) > 1]
    report.append(f"label conflicts (near-copies in different classes): {len(conflicts)}")
    report += ["    " + ", ".join(keys[i] for i in g[:4]) for g in conflicts[:5]]
    if unread:
        report.append(f"left out, cannot be read: {len(unread)} ({unread[0]}): delete and run 'python processed.py'")
    report.append(f"{'class':<16}{'train':>8}{'valid':>8}{'share':>8}")
    total, chosen = Counter(labels), Counter(itertools.compress(labels, valid))
    of_one = {c for group in persons for c, k in Counter(labels[i] for i in group).items() if k == total[c]}
    for name, n in sorted(total.items()):
        k = chosen[name]
        why = "one crop" if n == 1 else "one person: add photos of others" if name in of_one else "one group"
        alone = "" if k else f"  nothing for validation: {why}"
        report.append(f"{name:<16}{n - k:>8}{k:>8}{k / n:>8.1%}{alone}")
    report.append(f"{'all':<16}{(~valid).sum():>8}{valid.sum():>8}{valid.mean():>8.1%}")
    return dict(zip(keys, valid.tolist(), strict=True)), report


def read_record(folder):
    """What SPLIT in `folder` says, a dict; an empty one if there is none."""
    try:
        record = json.loads(Path(folder, SPLIT).read_text("utf-8"))
        return record if isinstance(record, dict) else {}
    except (OSError, ValueError):
        return {}


def write_record(folder, complete, settings, report):
    """Write SPLIT: train.py refuses a split that is not complete."""
    with files.atomic(Path(folder, SPLIT)) as temporary:
        temporary.write_text(json.dumps({"complete": complete, "settings": settings, "report": report}), "utf-8")


def check_folder(folder):
    """End with one line where `folder` holds photos that are not of a split, since they would be trained on.

    Returns (the record of the split there, the number of its crops, names that are ours though only the record of an
    old version says so).
    """
    record, depth = read_record(folder), len(Path(folder).parts)
    if Path(folder).is_symlink():
        script.fail(f"{folder} is a link: name the folder that it leads to")
    known = files.written(folder)
    ours = [] if known else [SPLIT, *record["files"]] if isinstance(record.get("files"), list) else []
    crops, there = known | set(ours), reading.list_photos(folder)
    for path in there:
        if "/".join(path.parts[depth:]) not in crops:
            script.fail(f"{path} was not put there by validation.py, and would be trained on: move it elsewhere")
    return record, len(there), ours


def replace(crops, sides, settings, report):
    """Put the split on disk. Until all of it is there, the records say that it is not complete."""
    both = ((TRAIN_DIR, False), (VALID_DIR, True))
    for folder, _ in both:
        write_record(folder, False, settings, report)
    for folder, side in both:
        names = {key for key in crops if sides.get(key) is side}
        files.remove_ours(folder, files.written(folder) - names - {SPLIT})
        for name in {key.split("/", 1)[0] for key in crops} | {key.rsplit("/", 1)[0] for key in names}:
            Path(folder, name).mkdir(parents=True, exist_ok=True)
        for key in tqdm(sorted(names), desc=f"linking {Path(folder).name}", unit="crop", disable=None):
            files.link(crops[key], Path(folder, key))
    for folder, _ in reversed(both):  # the one that train.py asks for first comes last
        write_record(folder, True, settings, report)


def check_constants():
    """End with one line if a constant is out of its range."""
    rules.check(globals(), FACES_DIR=str, RAW_DIR=str, TRAIN_DIR=str, VALID_DIR=str, VALID_RATIO=(float, 0.001, 0.999),
                SEED=(int, 0, 2**63 - 1), PEOPLE=str)


def main():
    """Split FACES_DIR into TRAIN_DIR and VALID_DIR, unless that is done already."""
    check_constants()
    links = {f"FACES_DIR/{path.name}": path for path in Path(FACES_DIR).glob("*") if path.is_symlink()}
    for name, place in {"FACES_DIR": FACES_DIR, "RAW_DIR": RAW_DIR, **links}.items():
        files.check_apart(**{name: place}, TRAIN_DIR=TRAIN_DIR, VALID_DIR=VALID_DIR)
    table, crops = people.read(PEOPLE) or {}, {}
    for name, found in reading.class_photos(FACES_DIR, FILL_FACES, "crops").items():
        for path in found:
            inner = path.relative_to(FACES_DIR).parts[1:]
            key = "/".join((name, *inner))
            # A class whose name is there in two forms has two folders, in which two crops may have one name.
            crops["/".join((name, "again", *inner)) if key in crops else key] = path
    crops = dict(sorted(crops.items()))
    listing = hashlib.blake2b()
    for key, path in crops.items():
        status = path.stat()
        source, person, *_ = people.of(table, Path(key)) or people.Person()
        listing.update(f"{key}\0{status.st_size}\0{status.st_mtime_ns}\0{source}\0{person}\n"
                       .encode(errors="surrogateescape"))
    settings = {"seed": SEED, "ratio": VALID_RATIO, "crops": listing.hexdigest(),
                "thresholds": [copies.CANDIDATE, copies.NEAR_COPY]}
    checked = {folder: check_folder(folder) for folder in (TRAIN_DIR, VALID_DIR)}
    done = all(record.get("settings") == settings and record.get("complete") and there == len(files.written(folder)) - 1
               for folder, (record, there, _) in checked.items())
    if done:
        report = checked[TRAIN_DIR][0]["report"]
    else:
        for folder, (_, _, ours) in checked.items():
            files.claim(folder, [SPLIT, *crops], ours)  # either folder may get any of them
        sides, report = split(crops, table)
        replace(crops, sides, settings, report)
    print("\n".join(report))
    print(f"{'unchanged' if done else 'written'}: {TRAIN_DIR} and {VALID_DIR} (SEED={SEED}, VALID_RATIO={VALID_RATIO})")


if __name__ == "__main__":
    script.override(globals())
    script.run(main)
