"""Finds near-duplicates: crops made from the same photo, even if it was edited in between. Nothing to run.

Crops are compared by thumbnails of their outlines. What all faces have in common is removed first; copies of a crop are
then among its nearest neighbours (nearest.py), and each of these pairs is compared in detail.
"""

import functools
import hashlib
import itertools
import re

import cv2
import numpy as np
from tqdm import tqdm

from faces import nearest

# ------------------------------------------------------------------------------------------------
# A pair is compared in detail if its whitened 16x16 thumbnails correlate by CANDIDATE. It is a near-duplicate if its
# 56x56 thumbnails correlate by NEAR_DUPLICATE at the best shift and scale. Of photos that were encoded again, relit,
# resized or mirrored before the face was cropped, 99 % are found; of the pairs found, 2 % show two people.
CANDIDATE = 0.42  # a lower value finds more heavily cropped copies and takes longer: 25,000 crops have 100,000 pairs
NEAR_DUPLICATE = 0.85  # a lower value joins faces that merely resemble each other
# Photos of a burst correlate less. Of 944 pairs of celebrities with consecutive numbers, all of them two people, none
# correlates by more than 0.65; of 636 pairs of a moving face, 98 % correlate by at least 0.7.
BURST = 0.7
CLOSEST = 24  # maximum of candidates of a crop, or its mirror image; with 16, 4 of 1,163 pairs of 25,000 crops are lost
# Pixels a side: a 224-pixel JPEG decoded at a quarter, which is nearly free. SMALL is of the thumbnails for CANDIDATE.
THUMBNAIL, DECODING, SMALL = 56, cv2.IMREAD_REDUCED_GRAYSCALE_4, 16
TEMPLATE, SHIFT = 36, 5  # pixels: side of the middle of one thumbnail, and how far from the other's middle it is sought
ENOUGH = 200  # crops that are needed to learn what faces have in common
# A detector's box changes if the photo is resized. Each scale has the correlation that copies reach by then: of 3,600
# pairs of copies none is below 0.5 at scale 1.0, and none below 0.8 at the best of the first three scales.
SCALES = {1.0: 0.5, 0.95: 0.5, 1.05: 0.78, 0.9: 0.78, 1.1: 0.78}
# A rough comparison comes before the detailed one: half the size, blurred, fewer shifts and scales. Of 2,400 crops
# shifted by up to 16 pixels and scaled by up to a tenth, and of 1,229 pairs found among 25,000 crops, 0.2 % are below
# this correlation; of candidates that are no copies, 8 % are above it.
ROUGH_COPY = 0.86
HALF, ROUGH_SHIFT, ROUGH_SCALES = THUMBNAIL // 2, 2, (0.93, 1.0, 1.07)
LARGE = 16  # crops; pairs within a larger group are not compared, which saves time on thousands of equal pictures
BLOCK, PART = 8192, 512  # crops, and pairs, that a thread processes at a time; affects memory only
ROUND = 2**18  # pairs after which the groups are computed again
# ------------------------------------------------------------------------------------------------


def settings():
    """All constants that determine the pairs, of the search in nearest.py too, as a text: a split is made again if it
    differs."""
    return repr((CANDIDATE, NEAR_DUPLICATE, BURST, CLOSEST, THUMBNAIL, DECODING, SMALL, TEMPLATE, SHIFT, ENOUGH, SCALES,
                 ROUGH_COPY, ROUGH_SHIFT, ROUGH_SCALES, LARGE, ROUND,
                 nearest.LIST, nearest.PROBES, nearest.ROUNDS, nearest.SAMPLE))


def thumbnail(path):
    """(outlines uint8 [56, 56], 128 where flat; smaller ones, float32 [16, 16]; digest of the file), or None if the
    file is not an image."""
    data = np.fromfile(path, np.uint8)  # imread cannot open every name on Windows
    gray = cv2.imdecode(data, DECODING) if data.size else None
    if gray is None:
        return None
    if gray.shape != (THUMBNAIL, THUMBNAIL):
        gray = cv2.resize(gray, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA)
    gray = gray.astype(np.float32)
    outlines = gray - cv2.GaussianBlur(gray, (0, 0), 4)  # removes slow changes of light and the common shape of faces
    small = cv2.resize(gray, (SMALL, SMALL), interpolation=cv2.INTER_AREA)
    small -= cv2.GaussianBlur(small, (0, 0), 2)
    return np.clip(np.rint(outlines) + 128, 0, 255).astype(np.uint8), small, hashlib.blake2b(data).digest()


def thumbnails(paths, pool):
    """(outlines uint8 [N, 56, 56], small float32 [N, 16, 16], digests [N], read) of crops: thumbnail() of each that is
    an image, and bool [len(paths)], True for images."""
    outlines = np.empty((len(paths), THUMBNAIL, THUMBNAIL), np.uint8)
    small, digests = np.empty((len(paths), SMALL, SMALL), np.float32), []
    read = np.zeros(len(paths), bool)
    bar = tqdm(pool.map(thumbnail, paths), desc="reading", total=len(paths), unit="crop", disable=None)
    for k, found in enumerate(bar):
        if found is not None:
            outlines[len(digests)], small[len(digests)], digest = found
            digests.append(digest)
            read[k] = True
    return outlines[:len(digests)], small[:len(digests)], digests, read


def correlation(a, b):
    """The correlation, -1..1, of the middle of thumbnail `a` with `b`, both float32 [56, 56], at the best scale and
    shift; it stops as soon as it is clear whether this is a copy."""
    edge = (THUMBNAIL - TEMPLATE) // 2
    middle = a[edge:-edge, edge:-edge]
    best = -1.0
    for scale, minimum in SCALES.items():
        side = round(TEMPLATE * scale)
        template = middle if side == TEMPLATE else cv2.resize(middle, (side, side), interpolation=cv2.INTER_LINEAR)
        low = max((THUMBNAIL - side) // 2 - SHIFT, 0)
        high = (THUMBNAIL - side) // 2 + side + SHIFT
        window = b[low:high, low:high]
        best = max(best, float(cv2.matchTemplate(window, template, cv2.TM_CCOEFF_NORMED).max()))
        if best >= NEAR_DUPLICATE or best < minimum:
            break
    return best


def centred(small):
    """Thumbnails float32 [N, 16, 16] -> float32 [N, 256] of mean 0 and unit length; 0 where they are blank."""
    flat = small.reshape(len(small), -1)
    flat = flat - flat.mean(1, keepdims=True)
    norm = np.linalg.norm(flat, axis=1, keepdims=True)
    return np.where(norm > 4, flat / np.maximum(norm, 1e-6), 0).astype(np.float32)


def whitener(small):
    """A function from thumbnails float32 [N, 16, 16] to vectors, float32 [N, 256] of unit length, 0 for blank ones.

    All faces look alike: eyes, a nose and a mouth in the same place. Whitening subtracts their mean and scales down the
    directions in which they differ most (light, pose), so that copies stand out. It is estimated from the thumbnails
    `small` and their mirror images; if these are fewer than ENOUGH, there is no whitening.
    """
    if len(small) < ENOUGH:
        return centred
    pixels = SMALL * SMALL
    total, products = np.zeros(pixels), np.zeros((pixels, pixels))
    for start in range(0, len(small), BLOCK):
        for view in (small[start:start + BLOCK], small[start:start + BLOCK, :, ::-1]):
            flat = centred(view)
            total += flat.sum(0, dtype=np.float64)
            products += flat.T @ flat
    mean = total / (2 * len(small))
    variance, directions = np.linalg.eigh(products / (2 * len(small)) - np.outer(mean, mean))
    variance = np.maximum(variance, 0) + 0.02 * variance[-1] + 1e-9
    mean, directions = mean.astype(np.float32), (directions / np.sqrt(variance)).astype(np.float32)

    def whitened(some):
        flat = centred(some)
        blank = ~flat.any(1)
        flat = (flat - mean) @ directions
        flat /= np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)
        flat[blank] = 0  # a blank picture resembles no other
        return flat

    return whitened


def candidates(small, pool):
    """Pairs of thumbnails float32 [N, 16, 16] to be compared in detail: int64 [P, 3], (i, j, mirrored), ascending.

    i < j; `mirrored` is 1 if j looks like the mirror image of i. A crop has at most CLOSEST candidates.
    """
    whitened = whitener(small)
    vectors = np.concatenate([whitened(small[start:start + BLOCK]) for start in range(0, len(small), BLOCK)])
    order, starts, centres, lists = nearest.index(vectors, pool)
    vectors = vectors[order]

    def search(start, mirrored):
        own = order[start:start + BLOCK]
        queries, near = vectors[start:start + BLOCK], lists[own]
        if mirrored:
            queries = whitened(small[own][:, :, ::-1])
            near = nearest.closest(queries, centres, near.shape[1])
        rows, columns = nearest.search(queries, near, vectors, starts, CANDIDATE, CLOSEST)
        i, j = np.sort([own[rows], order[columns]], axis=0)
        return np.stack([i, j, np.full_like(i, mirrored)], 1)[i < j]

    parts = [(start, mirrored) for start in range(0, len(small), BLOCK) for mirrored in (0, 1)]
    found = pool.map(search, *zip(*parts, strict=True))
    found = list(tqdm(found, total=len(parts), desc="looking", unit="part", disable=None))
    return np.unique(np.concatenate(found), axis=0)


def half(outlines):
    """A thumbnail uint8 [56, 56] -> uint8 [28, 28], blurred so that a shift of half a pixel changes little."""
    return cv2.GaussianBlur(cv2.resize(outlines, (HALF, HALF), interpolation=cv2.INTER_AREA), (0, 0), 0.75)


@functools.cache
def middles():
    """A linear map from a half() to the middle of it at each of ROUGH_SCALES, of which it takes every other pixel and
    subtracts the mean: float32 [28 * 28, scales, 9 * 9]."""
    pixels = np.eye(HALF * HALF, dtype=np.float32).reshape(-1, HALF, HALF)
    edge, parts = (HALF - TEMPLATE // 2) // 2, []
    for scale in ROUGH_SCALES:
        move = (HALF - 1) / 2 * (1 - scale)
        warp = np.array([[scale, 0, move], [0, scale, move]])
        warped = np.stack([cv2.warpAffine(p, warp, (HALF, HALF), borderMode=cv2.BORDER_REPLICATE) for p in pixels])
        part = warped[:, edge + 1:-edge:2, edge + 1:-edge:2].reshape(len(pixels), -1)
        parts.append(part - part.mean(1, keepdims=True))
    return np.stack(parts, 1)


def rough(a, which, b):
    """An approximation of correlation() for P pairs at once: float32 [P].

    The pairs are a[which[k]] and b[k]. `a`: half() pictures, uint8 [N, 28, 28]; `which`: int [P]; `b`: uint8
    [P, 28, 28].
    """
    def grid(rows):
        """The pixels in `rows` and in the same columns, as indices into a flat picture."""
        return (rows[:, None] * HALF + rows).ravel()

    corners = grid((HALF - TEMPLATE // 2) // 2 - ROUGH_SHIFT + np.arange(2 * ROUGH_SHIFT + 1))
    pixels = grid(np.arange(1, TEMPLATE // 2, 2))  # those that middles() takes, from a corner on
    places = corners[:, None] + pixels  # [shifts, pixels]
    a = a.reshape(len(a), HALF * HALF).astype(np.float32) - 128
    b = b.reshape(len(b), HALF * HALF).astype(np.float32) - 128
    templates = np.tensordot(a, middles(), 1)  # [N, scales, pixels]
    templates /= np.maximum(np.linalg.norm(templates, axis=2, keepdims=True), 1e-3)
    windows = np.take(b, places, axis=1)  # [P, shifts, pixels]
    spread = np.einsum("npk,npk->np", windows, windows) - windows.sum(2) ** 2 / places.shape[1]
    fit = np.matmul(templates[which], windows.transpose(0, 2, 1)).max(1)  # at the best scale: [P, shifts]
    return (fit / np.sqrt(np.maximum(spread, 1e-3))).max(1)


def agreeing(pairs, outlines, halves):
    """Those of the candidates() `pairs`, int64 [P, 3], that are near-duplicates; rough() rejects most others.
    `outlines`: uint8 [N, 56, 56]; `halves`: half() of each."""
    i, j, mirrored = pairs.T

    def pictures_i(pictures, rows):
        """The picture i of some of the pairs, mirrored if the pair is."""
        return np.where(mirrored[rows, None, None], pictures[i[rows]][:, :, ::-1], pictures[i[rows]])

    _, first, which = np.unique(2 * i + mirrored, return_index=True, return_inverse=True)  # each picture only once
    rows = np.flatnonzero(rough(pictures_i(halves, first), which, halves[j]) >= ROUGH_COPY)
    left = pictures_i(outlines, rows).astype(np.float32)  # OpenCV is faster with floats
    right = outlines[j[rows]].astype(np.float32)
    agreed = np.zeros(len(rows), bool)
    for k, (a, b) in enumerate(zip(left, right, strict=True)):
        best = correlation(a, b)
        if NEAR_DUPLICATE - 0.05 <= best < NEAR_DUPLICATE:
            # The result depends on which of the two is scaled, so a near miss is tried the other way round.
            best = correlation(b, a)
        agreed[k] = best >= NEAR_DUPLICATE
    return pairs[rows[agreed]]


def near_duplicates(outlines, small, digests, pool):
    """Pairs (i, j), i < j, of crops that are copies of one photo, re-encoded, resized, relit, cropped or mirrored.

    outlines: uint8 [N, 56, 56]; small: float32 [N, 16, 16]; digests: one per file, equal for equal files. Returns int64
    [P, 2], ascending. Of a group of more than LARGE crops some pairs are missing, but those returned connect the group.
    """
    if not len(small):
        return np.zeros((0, 2), np.int64)
    first, equal = {}, []
    for i, digest in enumerate(digests):
        if digest in first:
            equal.append((first[digest], i))
        else:
            first[digest] = i
    found = [np.array(equal, np.int64).reshape(-1, 2)]
    pairs = candidates(small, pool)
    halves = np.array([half(outline) for outline in outlines])
    with tqdm(total=len(pairs), desc="comparing", unit="pair", disable=None) as bar:
        for some in np.split(pairs, range(ROUND, len(pairs), ROUND)):
            bar.update(len(some))
            group = groups_of(len(small), np.concatenate(found))
            i, j, _ = some.T
            some = some[(group[i] != group[j]) | (np.bincount(group)[group[i]] <= LARGE)]
            parts = np.split(some, range(PART, len(some), PART))
            found += [part[:, :2] for part in pool.map(lambda part: agreeing(part, outlines, halves), parts)]
    return np.unique(np.concatenate(found), axis=0)


def bursts(names, outlines, pool):
    """Pairs (i, j) of photos taken one after the other: their names, "class/name", end in consecutive numbers, such as
    IMG_0007.jpg and IMG_0008.jpg, and they look alike. int64 [P, 2]. `outlines`: uint8 [N, 56, 56]."""
    index = {name: i for i, name in enumerate(names)}
    pairs = []
    for name, i in index.items():
        match = re.fullmatch(r"(.*?)(\d+)(\.\w+)", name)
        if match:
            start, number, suffix = match.groups()
            following = str(int(number) + 1).zfill(len(number))
            j = index.get(f"{start}{following}{suffix}")
            if j is not None:
                pairs.append((i, j))

    def look_alike(pair):
        one, next_one = (outlines[i].astype(np.float32) for i in pair)
        return max(correlation(one, next_one), correlation(next_one, one)) >= BURST

    bar = tqdm(pool.map(look_alike, pairs), desc="bursts", total=len(pairs), unit="pair", disable=None)
    return np.array(list(itertools.compress(pairs, bar)), np.int64).reshape(-1, 2)


def groups_of(n, pairs):
    """The connected component of each of 0..n-1 along `pairs`, int [P, 2]: int32 [n], numbers from 0."""
    from scipy.sparse import coo_array, csgraph  # here, since its import takes half as long as all others of a script

    pairs = np.asarray(pairs, np.int64).reshape(-1, 2)
    graph = coo_array((np.ones(len(pairs), bool), pairs.T), (n, n))
    return csgraph.connected_components(graph, directed=False)[1]


def components(n, pairs):
    """groups_of() as a list of lists of indices, each ascending, in the order of their first indices; singles too."""
    groups = {}
    for i, group in enumerate(groups_of(n, pairs).tolist()):
        groups.setdefault(group, []).append(i)
    return list(groups.values())
