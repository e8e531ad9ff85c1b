"""Approximate nearest neighbours, without comparing all pairs of vectors. Nothing to run.

An inverted file: each vector is in the list of its closest centre, and a query searches the lists of the centres that
are closest to it. Jegou, Douze and Schmid, "Product quantization for nearest neighbor search", PAMI 2011, section IV.
"""

import numpy as np

# ------------------------------------------------------------------------------------------------
LIST = 96  # mean number of vectors in a list; fixed, so that a query costs the same for any number of vectors
PROBES = 24  # lists searched per query; so up to LIST * PROBES vectors, all pairs are compared
ROUNDS = 6  # iterations of k-means; more iterations find no more pairs
SAMPLE = 16  # vectors per centre that k-means uses
BLOCK = 1024  # vectors compared with all centres at a time; affects memory only
# ------------------------------------------------------------------------------------------------


def closest(vectors, centres, count, run=map):
    """The indices of the `count` centres, float32 [C, D], that are closest to each vector, float32 [N, D], the closest
    first: int32 [N, count]. `run`: map, or the map of a pool of threads."""
    def part(start):
        near = vectors[start:start + BLOCK] @ centres.T
        best = np.argpartition(near, -count)[:, -count:] if count > 1 else near.argmax(1)[:, None]
        order = np.argsort(-np.take_along_axis(near, best, 1), axis=1, kind="stable")
        return np.take_along_axis(best, order, 1).astype(np.int32)

    return np.concatenate(list(run(part, range(0, len(vectors), BLOCK))))


def centres_of(vectors, pool):
    """Centres of unit length for vectors float32 [N, D] by spherical k-means: float32 [C, D]; deterministic."""
    rng, count = np.random.default_rng(0), max(1, len(vectors) // LIST)
    vectors = vectors[np.sort(rng.permutation(len(vectors))[:SAMPLE * count])]
    centres = vectors[np.sort(rng.permutation(len(vectors))[:count])]
    for _ in range(ROUNDS if count > PROBES else 0):
        own = closest(vectors, centres, 1, pool.map)[:, 0]
        order = np.argsort(own, kind="stable")
        held, starts = np.unique(own[order], return_index=True)
        sums = np.add.reduceat(vectors[order], starts)
        centres[held] = sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-6)
    return centres


def index(vectors, pool):
    """Lists for the vectors float32 [N, D], of length one or zero: (order, starts, centres, lists).

    order[starts[k]:starts[k + 1]] are the vectors of list k; those of length zero come last, in no list. `lists`, int32
    [N, PROBES], has the closest() of each vector. `pool`: of threads.
    """
    blank = ~vectors.any(1)
    centres = centres_of(vectors[~blank], pool) if not blank.all() else vectors[:1]
    lists = closest(vectors, centres, min(PROBES, len(centres)), pool.map)
    own = np.where(blank, len(centres), lists[:, 0])  # the list of each vector
    starts = np.concatenate([[0], np.bincount(own, minlength=len(centres) + 1).cumsum()[:-1]])
    return np.argsort(own, kind="stable"), starts, centres, lists


def search(queries, lists, vectors, starts, minimum, count):
    """For queries float32 [Q, D] with their closest() `lists`, the vectors whose product with them is at least
    `minimum`; for each query at most the `count` closest. `vectors`, `starts`: of index(), in its order.

    Returns (rows, columns), int64: indices of queries, and of vectors.
    """
    by_list = np.argsort(lists, axis=None, kind="stable")  # places in `lists`, flat: those of list 0, of list 1, ...
    bounds = np.searchsorted(lists.ravel()[by_list], np.arange(len(starts)))
    asking = by_list // lists.shape[1]  # the queries that search list 0, list 1, ...
    found = []
    for k in range(len(starts) - 1):
        rows, first = asking[bounds[k]:bounds[k + 1]], starts[k]
        close = queries[rows] @ vectors[first:starts[k + 1]].T
        row, column = np.nonzero(close >= minimum)
        if len(row) > count * len(rows):  # limits memory if many vectors are alike
            row, column = np.nonzero(close >= np.maximum(np.partition(close, -count)[:, -count, None], minimum))
        found.append((rows[row], column + first, close[row, column]))
    rows, columns, close = (np.concatenate(part) for part in zip(*found, strict=True))
    order = np.lexsort((columns, -close, rows))
    rows, columns = rows[order], columns[order]
    rank = np.arange(len(rows)) - np.searchsorted(rows, rows)  # of each vector among those of its query
    return rows[rank < count], columns[rank < count]
