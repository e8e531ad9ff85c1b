"""Finds test photos that are also in the training data, or in two classes of the test. Nothing to run."""

from concurrent.futures import ThreadPoolExecutor

from faces import copies
from terminal import workers

MOST = 10_000  # photos of both folders; more take minutes to read, and are searched for equal files only


def same_files(paths):
    """Pairs (i, j), i < j, of files with the same bytes. Only files of one size are read."""
    sizes = {}
    for i, path in enumerate(paths):
        sizes.setdefault(path.stat().st_size, []).append(i)
    first, pairs = {}, []
    for size, group in sizes.items():
        for i in group if len(group) > 1 else ():
            key = size, paths[i].read_bytes()
            if first.setdefault(key, i) != i:
                pairs.append((first[key], i))
        first.clear()
    return pairs


def copied(paths):
    """Groups of indices of photos that are copies of one another: equal files, or near-copies, found in whole photos as
    validation.py finds them in crops. Photos that OpenCV cannot read are compared by their bytes only.
    """
    pairs = same_files(paths)
    if 1 < len(paths) <= MOST:
        with ThreadPoolExecutor(workers.cores()) as pool:
            outlines, small, digests, read = copies.thumbnails(paths, pool)
            index = read.nonzero()[0]
            if len(index) > 1:
                pairs += index[copies.near_copies(outlines, small, digests, pool)].tolist()
    return [group for group in copies.components(len(paths), pairs) if len(group) > 1]


def find_copies(test, training, takes):
    """Print how many test photos, [(path, class)], are copies of `training` photos, [path], or of a test photo of
    another class. Returns {"in_training": [...], "in_two_classes": [...]}, names of files.

    `takes`: which of the test photos are from takes, bool. In takes one person changes one thing, so their photos look
    alike in all classes.
    """
    paths = [path for path, _ in test] + list(training)
    known, torn = [], []
    for group in copied(paths):
        own = [i for i in group if i < len(test)]
        if len(own) < len(group):
            known += own
        single = [i for i in own if not takes[i]]
        if len({test[i][1] for i in single}) > 1:
            torn += single
    for found, what in ((known, "have a copy among the training photos: the results on them are too good"),
                        (torn, "have a copy in another class of the test: one of the two labels is wrong")):
        if found:
            print(f"{len(found)} of {len(test)} photos, such as {paths[min(found)].as_posix()}, {what}")
    return {"in_training": [paths[i].as_posix() for i in sorted(known)],
            "in_two_classes": [paths[i].as_posix() for i in sorted(torn)]}
