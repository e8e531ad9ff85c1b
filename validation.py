"""Step 2: split face crops into training and validation.

    python validation.py       processed/faces/<class>/  ->  processed/train/<class>/ and processed/valid/<class>/

Each class of each source is split in the same proportion, by hard links (or copies, if the disk has none); the crops
stay where they are. Near-duplicates, and photos of one person, stay on one side, since a face that the network has
seen in training is no test. Takes of data/webcam.py, which all look alike, stay together by their number. The same
crops and constants give the same split; a change replaces it whole. If a class has nothing left for validation, the
exit status is 1.
"""

from terminal import script  # isort: skip  # first, so that Ctrl-C during the other imports is one line

import os

if __name__ == "__main__":  # before NumPy is imported, since its own threads would slow down those of this script
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# ruff: noqa: E402
import contextlib
import hashlib
import itertools
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from tqdm import tqdm

import processed
from faces import copies, detectors, people, reading, splits
from processed import FACES_DIR, RAW_DIR
from terminal import files, places, records, rules, workers
from terminal.records import SPLIT

# ------------------------------------------------------------------------------------------------
TRAIN_DIR = "processed/train"
VALID_DIR = "processed/valid"
VALID_RATIO = 0.2  # share of each class that goes to validation, between 0 and 1 (the paper's: 0.2)
SEED = 0  # another number gives another split
PEOPLE = people.PEOPLE  # who is in the photos; without it, no person is known
# ------------------------------------------------------------------------------------------------

FILL_FACES = "run 'python processed.py', which fills it"


def assign(groups, keys, strata, ratio, seed):
    """Whether each crop is for validation: bool [N]. Groups stay whole; each stratum gives `ratio` of its crops, as
    nearly as possible, and keeps at least one for training.

    groups: lists of indices that stay together; keys: "class/name" of each crop; strata: its (source, class). The
    random order depends on the names and the seed, not on the file system. Groups of several crops are assigned first,
    in proportion; single crops then fill the rest.
    """
    total, seen, chosen = Counter(strata), Counter(), Counter()  # crops by stratum: all, those considered, the valid
    maximum = {s: n - 1 for s, n in total.items()}
    target = {s: min(max(1, round(n * ratio)), maximum[s]) for s, n in total.items()}
    valid = np.zeros(len(keys), bool)

    def fits(counts, limit):
        return all(chosen[s] + n <= limit[s] for s, n in counts.items())

    def choose(group, counts):
        valid[group] = True
        chosen.update(counts)

    order = [(group, Counter(strata[i] for i in group)) for group in in_random_order(groups, keys, seed)]
    # Groups that bring the share of validation nearer to `ratio`, and single crops until the target is reached.
    for group, counts in order:
        seen.update(counts)
        # The distance from `ratio` of the crops so far, without this group and with it.
        without = sum(abs(chosen[s] - ratio * seen[s]) for s in counts)
        with_it = sum(abs(chosen[s] + n - ratio * seen[s]) for s, n in counts.items())
        if fits(counts, target) and (len(group) == 1 or with_it < without):
            choose(group, counts)
    # Any groups that still fit, if there were too few single crops.
    for group, counts in order:
        if not valid[group[0]] and fits(counts, target):
            choose(group, counts)
    # The smallest group of a stratum whose groups all exceed its target: too much for validation rather than nothing.
    for s in sorted(total):
        if not chosen[s]:
            left = [(group, counts) for group, counts in order
                    if not valid[group[0]] and counts[s] and fits(counts, maximum)]
            if left:
                group, counts = min(left, key=lambda entry: len(entry[0]))
                choose(group, counts)
    return valid


def in_random_order(groups, keys, seed):
    """`groups` of indices into `keys`, in an order that depends on the names and the seed alone: groups of several
    crops, then single crops."""
    def place(group):
        name = min(keys[i] for i in group)  # need not be valid text
        return len(group) == 1, hashlib.blake2b(f"{seed}/{name}".encode(errors="surrogateescape")).digest()

    return sorted(groups, key=place)


def describe(kind, groups, keys):
    """A line about the groups with more than one crop."""
    sizes = [len(g) for g in groups if len(g) > 1]
    line = f"{kind}: {len(sizes)} groups with {sum(sizes)} crops"
    if sizes:
        line += f", the largest of {max(sizes)} ({keys[max(groups, key=len)[0]]})"
    return line


def table_of(labels, valid):
    """The table of the split, list of lines. `labels`: the class of each crop; `valid`: bool [N]."""
    total, chosen = Counter(labels), Counter(itertools.compress(labels, valid))
    rows = [*sorted((name, n, chosen[name]) for name, n in total.items()), ("all", len(labels), int(valid.sum()))]
    return [f"{'class':<16}{'train':>8}{'valid':>8}{'share':>8}",
            *(f"{name:<16}{n - k:>8}{k:>8}{k / n:>8.1%}" for name, n, k in rows)]


def why_none(name, own, groups, known, pairs, keys):
    """Why a class has nothing for validation, and what to do: two texts.

    own: set of the indices of its crops; groups: lists of indices that stay together; known: a people.Person per crop;
    pairs: (i, j) of near-duplicates.
    """
    def named(i):
        return f"{keys[i]} ({known[i].person})" if known[i].person else keys[i]

    groups = [set(group) for group in groups if own & set(group)]
    persons = {known[i].person for i in own} - {""}
    takes = any(known[i].source == people.TAKES for i in own)
    near = [(i, j) for i, j in pairs.tolist() if any(i in group for group in groups)]
    near.sort(key=lambda pair: known[pair[0]].person == known[pair[1]].person)  # pairs of two persons first
    if len(own) == 1:
        why = f"{name} has one crop"
    elif len(groups) > 1:
        why = f"each group of {name} also contains the last crops of another class"
    elif near and (len(persons) > 1 or not all(known[i].person for i in own)):
        joints = "; ".join(f"{named(i)} and {named(j)}" for i, j in near[:3])
        why = f"near-duplicates join all {len(own)} crops of {name}, such as {joints}"
    else:
        why = f"all {len(own)} crops of {name} are of one {'take' if takes else 'person'}, {min(persons)}"
    if takes:
        return why, "make at least three takes of each class with data/webcam.py"
    return why, f"add photos {'of other people' if persons else 'that are not copies'} to {RAW_DIR}/{name}"


def choose_sides(crops, persons):
    """Choose the side of each crop. crops: {"class/name": Path}; persons: {"class/name": people.Person}. Returns
    ({"class/name": True for validation}, lines to print, one line on why it cannot be trained on, or None)."""
    with ThreadPoolExecutor(workers.cores()) as pool:  # OpenCV releases the GIL
        outlines, small, digests, read = copies.thumbnails(list(crops.values()), pool)
        keys, unread = list(itertools.compress(crops, read)), list(itertools.compress(crops, ~read))
        labels = [key.split("/", 1)[0] for key in keys]
        readable = set(labels)
        for key in unread:
            name = key.split("/", 1)[0]
            if name not in readable:
                script.fail(f"no crop of {name} can be read: delete {crops[key].parent} and {FILL_FACES}")
        known = [persons[key] for key in keys]
        # Takes of one person at one desk look alike. Copies among them are not sought, since each take is known.
        free = np.flatnonzero(~people.takes(known))
        pairs = copies.near_duplicates(outlines[free], small[free], [digests[i] for i in free], pool)
        pairs = free[np.concatenate([pairs, copies.bursts([keys[i] for i in free], outlines[free], pool)])]
    same = np.stack([people.clusters(known), np.arange(len(keys))], 1)
    copied, together = copies.components(len(keys), pairs), copies.components(len(keys), same)
    groups = copies.components(len(keys), np.concatenate([pairs, same]))
    # By source too: otherwise a source of large groups would exceed its share, and one of single photos miss its own.
    strata = [(person.source, label) for person, label in zip(known, labels, strict=True)]
    valid = assign(groups, keys, strata, VALID_RATIO, SEED)

    lines = [describe("near-duplicates", copied, keys), describe("one person or take", together, keys),
              describe("kept on one side in all", groups, keys)]
    conflicts = [g for g in copied if len({labels[i] for i in g}) > 1]
    lines.append(f"label conflicts (near-duplicates in different classes): {len(conflicts)}")
    lines += ["    " + ", ".join(keys[i] for i in g[:4]) for g in conflicts[:5]]
    if unread:
        lines.append(f"left out, cannot be read: {len(unread)} ({unread[0]}): delete and run 'python processed.py'")
    lines += table_of(labels, valid)
    problem = None
    without = sorted(set(labels) - set(itertools.compress(labels, valid)))
    for name in without:
        own = {i for i, label in enumerate(labels) if label == name}
        why, remedy = why_none(name, own, groups, known, pairs, keys)
        lines.append(f"nothing for validation: {why}")
        problem = problem or (f"nothing is left for the validation of {', '.join(without)}: {why}; {remedy}, and run "
                              "'python processed.py' and 'python validation.py'")
    return dict(zip(keys, valid.tolist(), strict=True)), lines, problem


def check_folder(folder):
    """End with one line if `folder` is or has a link, or has photos that are not from a split, since they would be
    trained on. Returns the number of crops in it.
    """
    depth = len(Path(folder).parts)
    for place in (Path(folder), *Path(folder).glob("*")):
        if files.is_link(place) and place.is_dir():
            script.fail(f"{place} is a link, and its target would be trained on: move it away, or name another place")
    ours, there = records.written(folder), reading.list_photos(folder)
    for path in there:
        if "/".join(path.parts[depth:]) not in ours:
            script.fail(f"{path} was not written by validation.py, and would be trained on: move it elsewhere")
    return len(there)


def write_split(crops, sides, persons, notes):
    """Replace the split on disk, by one without crops if it has a problem. Until it is complete, its notes state a
    problem.

    crops, sides, persons: see choose_sides(); notes: the splits.Split, without crops.
    """
    members = {TRAIN_DIR: [], VALID_DIR: []}  # {folder: its crops}
    if not notes.problem:
        members[TRAIN_DIR] = [key for key in crops if sides.get(key) is False]
        members[VALID_DIR] = [key for key in crops if sides.get(key) is True]
    for folder in members:
        splits.write(folder, notes._replace(problem="half a split, since 'python validation.py' was stopped: run it "
                                             "again"))
    for folder, names in members.items():
        records.remove_ours(folder, records.written(folder) - {*names, SPLIT})
        for place in list(Path(folder).iterdir()):  # an empty folder would be a class without crops
            with contextlib.suppress(OSError):
                place.rmdir()
        for place in records.folders_of(names):
            Path(folder, place).mkdir(exist_ok=True)
        for key in tqdm(names, desc=f"linking {Path(folder).name}", unit="crop", disable=None):
            files.link(crops[key], Path(folder, key))
        if not all(Path(folder, key).is_file() for key in names):
            raise files.gone(folder)
    for folder in (VALID_DIR, TRAIN_DIR):  # the folder that train.py reads first comes last
        splits.write(folder, notes._replace(crops={key: persons[key] for key in members[folder]}))


def equalisation():
    """The clip limit with which the crops in FACES_DIR were equalised, 0.0 if processed.py has not made them; ends the
    program if it would make other crops now."""
    recipe, _ = processed.read_crop_notes(FACES_DIR)
    if recipe and recipe not in map(processed.recipe, detectors.DETECTORS):
        script.fail(f"{FACES_DIR} was made with other constants of processed.py, or by another version: run 'python "
                    "processed.py' again")
    return processed.CLAHE if recipe else 0.0  # the recipe includes CLAHE


def crops_by_key():
    """{"class/name": Path} of the crops in FACES_DIR, sorted."""
    crops = {}
    for name, found in reading.class_photos(FACES_DIR, FILL_FACES, "crops").items():
        for path in found:
            inner = path.relative_to(FACES_DIR).parts[1:]
            key = "/".join((name, *inner))
            if key in crops:  # a class with two forms of its name has two folders, each with a crop of this name
                key = "/".join((name, "again", *inner))
            crops[key] = path
    return dict(sorted(crops.items()))


RULES = dict(FACES_DIR=str, RAW_DIR=str, TRAIN_DIR=str, VALID_DIR=str, VALID_RATIO=(float, 0.001, 0.999),
             SEED=(int, 0, 2**63 - 1), PEOPLE=str)


def main():
    """Split FACES_DIR into TRAIN_DIR and VALID_DIR, unless that is done already."""
    rules.check(globals())
    rules.check(vars(processed))
    places.check_outputs(globals(), "TRAIN_DIR", "VALID_DIR")
    places.check_classes_apart("FACES_DIR", FACES_DIR, TRAIN_DIR=TRAIN_DIR, VALID_DIR=VALID_DIR)
    places.check_apart(RAW_DIR=RAW_DIR, TRAIN_DIR=TRAIN_DIR, VALID_DIR=VALID_DIR)
    table = people.read(PEOPLE)
    clahe = equalisation()
    crops = crops_by_key()
    persons = dict(zip(crops, people.of_all(table, map(Path, crops)), strict=True))
    listing = hashlib.blake2b()
    for key, path in crops.items():
        status = path.stat()
        listing.update("\0".join([key, str(status.st_size), str(status.st_mtime_ns), *persons[key], "\n"])
                       .encode(errors="surrogateescape"))
    settings = {"seed": SEED, "ratio": VALID_RATIO, "crops": listing.hexdigest(), "clahe": clahe,
                "copies": copies.settings()}
    folders = (TRAIN_DIR, VALID_DIR)
    counts = [check_folder(folder) for folder in folders]
    before = [splits.read(folder) for folder in folders]
    done = all(notes and notes.settings == settings and not notes.problem and count == len(notes.crops)
               for notes, count in zip(before, counts, strict=True))
    if done:
        notes = before[0]
    else:
        for folder in folders:
            records.claim(folder, [SPLIT, *crops])  # each crop may go to either folder
        sides, lines, problem = choose_sides(crops, persons)
        notes = splits.Split(settings, lines, problem, clahe, {})
        write_split(crops, sides, persons, notes)
    print("\n".join(notes.lines))
    if notes.problem:
        script.fail(notes.problem)
    print(f"{'unchanged' if done else 'written'}: {TRAIN_DIR} and {VALID_DIR} (SEED={SEED}, VALID_RATIO={VALID_RATIO})")


if __name__ == "__main__":
    rules.override(globals())
    script.run(main)
