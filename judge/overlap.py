"""Finds test photos that are also in the training data, or in two classes of the test. Nothing to run."""

import hashlib
from concurrent.futures import ThreadPoolExecutor

from faces import copies
from terminal import workers

MAX_PHOTOS = 10_000  # photos of both folders; more take minutes to read, and are searched for equal files only


def same_files(paths):
    """Pairs (i, j), i < j, of files with the same bytes. Only files of one size are read."""
    by_size = {}
    for i, path in enumerate(paths):
        by_size.setdefault(path.stat().st_size, []).append(i)
    pairs = []
    for group in by_size.values():
        if len(group) == 1:
            continue
        first = {}  # {digest of a file's bytes: index of the first file that has them}
        for i in group:
            digest = hashlib.blake2b(paths[i].read_bytes()).digest()
            earlier = first.setdefault(digest, i)
            if earlier != i:
                pairs.append((earlier, i))
    return pairs


def copied(paths):
    """Groups of indices of photos that are copies of one another: equal files, or near-duplicates, found in whole
    photos as validation.py finds them in crops. Photos that OpenCV cannot read are compared by their bytes only.
    """
    pairs = same_files(paths)
    if 1 < len(paths) <= MAX_PHOTOS:
        with ThreadPoolExecutor(workers.cores()) as pool:
            outlines, small, digests, read = copies.thumbnails(paths, pool)
            index = read.nonzero()[0]
            if len(index) > 1:
                pairs += index[copies.near_duplicates(outlines, small, digests, pool)].tolist()
    return [group for group in copies.components(len(paths), pairs) if len(group) > 1]


def find_copies(test, training, takes):
    """Print how many test photos, [(path, class)], are copies of `training` photos, [path], or of a test photo of
    another class. Returns {"in_training": [...], "in_two_classes": [...]}, names of files.

    `takes`: which of the test photos are from takes, bool. In takes one person changes one thing, so their photos look
    alike in all classes.
    """
    paths = [path for path, _ in test] + list(training)
    in_training, in_two_classes = [], []  # indices into `paths`
    for group in copied(paths):
        own = [i for i in group if i < len(test)]
        if len(own) < len(group):
            in_training += own
        others = [i for i in own if not takes[i]]
        if len({test[i][1] for i in others}) > 1:
            in_two_classes += others
    for found, what in ((in_training, "have a copy among the training photos: the results on them are too good"),
                        (in_two_classes, "have a copy in another class of the test: one of the two labels is wrong")):
        if found:
            print(f"{len(found)} of {len(test)} photos, such as {paths[min(found)].as_posix()}, {what}")
    return {"in_training": [paths[i].as_posix() for i in sorted(in_training)],
            "in_two_classes": [paths[i].as_posix() for i in sorted(in_two_classes)]}
