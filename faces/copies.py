"""Near-copies: crops made from one photo, whatever has been done to it in between. Nothing to run.

Crops are compared as small pictures of their outlines. All faces look alike in most of what such a picture holds, so
what they have in common is taken out first; then copies stand out among 25,000 crops within a minute.
"""

import hashlib

import cv2
import numpy as np
from tqdm import tqdm

# ------------------------------------------------------------------------------------------------
# A pair is looked at closely when 16x16 thumbnails correlate by CANDIDATE once what faces have in common is taken out,
# and is a near-copy when the 56x56 ones correlate by NEAR_COPY at the best shift and scale. Of photos encoded again,
# relit, resized or mirrored before the face was cut out, 99 % are found; of the pairs found, 2 % are two people.
CANDIDATE = 0.42  # lower finds more heavily cropped copies and takes longer: 25,000 crops have 100,000 such pairs
NEAR_COPY = 0.85  # lower joins faces that merely resemble each other
THUMBNAIL = 56  # pixels a side: a 224-pixel JPEG decoded at a quarter, which is nearly free
TEMPLATE, SHIFT = 36, 5  # the middle of one thumbnail, sought within so many pixels of the middle of the other
ENOUGH = 200  # crops from which it can be known what faces have in common
SCALES = (1.0, 0.95, 1.05, 0.9, 1.1)  # the face finder's box is not the same on a resized photo
# ------------------------------------------------------------------------------------------------


def thumbnail(path):
    """(outlines uint8 [56, 56], 128 where flat; the same as float32 [16, 16]; digest of the file), None if no image."""
    data = np.fromfile(path, np.uint8)  # imread cannot open every name on Windows
    gray = cv2.imdecode(data, cv2.IMREAD_REDUCED_GRAYSCALE_4) if data.size else None
    if gray is None:
        return None
    if gray.shape != (THUMBNAIL, THUMBNAIL):
        gray = cv2.resize(gray, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA)
    gray = gray.astype(np.float32)
    outlines = gray - cv2.GaussianBlur(gray, (0, 0), 4)  # slow changes of light go; so does what all faces share
    small = cv2.resize(gray, (16, 16), interpolation=cv2.INTER_AREA)
    small -= cv2.GaussianBlur(small, (0, 0), 2)
    return np.clip(np.rint(outlines) + 128, 0, 255).astype(np.uint8), small, hashlib.blake2b(data).digest()


def correlation(a, b):
    """How well the middle of thumbnail `a` fits into `b` at the best scale and shift, up to 1; stops when settled."""
    edge, best = (THUMBNAIL - TEMPLATE) // 2, -1.0
    middle = a[edge:-edge, edge:-edge]
    for scale in SCALES:
        side = round(TEMPLATE * scale)
        template = middle if side == TEMPLATE else cv2.resize(middle, (side, side), interpolation=cv2.INTER_LINEAR)
        low, high = (THUMBNAIL - side) // 2 - SHIFT, (THUMBNAIL - side) // 2 + side + SHIFT
        window = b[max(low, 0) : high, max(low, 0) : high]
        best = max(best, float(cv2.matchTemplate(window, template, cv2.TM_CCOEFF_NORMED).max()))
        if best >= NEAR_COPY or best < 0.5:  # hardly a copy is so far off at its own scale: spare the others
            break
    return best


def agree(a, b):
    """Whether two thumbnails show one picture. Which is enlarged matters: a close miss is tried both ways."""
    best = correlation(a, b)
    return best >= NEAR_COPY or (best >= NEAR_COPY - 0.15 and correlation(b, a) >= NEAR_COPY)


def whitened(small):
    """Thumbnails float32 [N, 16, 16] -> two float32 [N, 256] of unit length, the second for their mirror images.

    All faces look alike: eyes, a nose and a mouth in one place. Without their mean, and with the directions in which
    they differ most (light, pose) scaled down to the others, copies stand out.
    """
    flat = np.concatenate([small, small[:, :, ::-1]]).reshape(2 * len(small), -1)
    flat = flat - flat.mean(1, keepdims=True)
    norm = np.linalg.norm(flat, axis=1, keepdims=True)
    flat = np.where(norm > 4, flat / np.maximum(norm, 1e-6), 0).astype(np.float32)
    if len(small) >= ENOUGH:
        mean = flat.mean(0)
        variance, directions = np.linalg.eigh(np.cov(flat - mean, rowvar=False))
        variance = np.maximum(variance, 0) + 0.02 * variance[-1] + 1e-9
        flat = (flat - mean) @ (directions / np.sqrt(variance)).astype(np.float32)
        flat /= np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)
    flat[norm[:, 0] <= 4] = 0  # a blank picture resembles none
    return flat[: len(small)], flat[len(small) :]


def near_copies(outlines, small, digests, pool):
    """Pairs (i, j), i < j, of crops that are copies of one photo, re-encoded, resized, relit, cropped or mirrored.

    outlines: uint8 [N, 56, 56]; small: float32 [N, 16, 16]; digests: one a file, equal for equal files.
    """
    first = {}
    pairs = [(first.setdefault(d, i), i) for i, d in enumerate(digests)]
    pairs = {pair for pair in pairs if pair[0] != pair[1]}

    plain, mirrored = whitened(small)
    with tqdm(total=len(small), desc="comparing", unit="crop", disable=None) as bar:
        for start in range(0, len(small), 512):
            block = slice(start, start + 512)
            for side, features in enumerate((plain, mirrored)):
                row, column = np.nonzero(features[block] @ plain[start:].T >= CANDIDATE)
                keep = row < column
                found = list(zip((row[keep] + start).tolist(), (column[keep] + start).tolist(), strict=True))

                def check(some, side=side):
                    return [(i, j) for i, j in some
                            if agree(np.ascontiguousarray(outlines[i][:, ::-1]) if side else outlines[i], outlines[j])]

                parts = [found[i : i + 256] for i in range(0, len(found), 256)]
                pairs.update(pair for part in pool.map(check, parts) for pair in part)
            bar.update(min(512, len(small) - start))
    return sorted(pairs)


def components(n, pairs):
    """Join 0..n-1 along `pairs`: a list of lists of indices, each ascending, singles included."""
    parent = list(range(n))

    def root(i):
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for i, j in pairs:
        parent[max(root(i), root(j))] = min(root(i), root(j))
    groups = {}
    for i in range(n):
        groups.setdefault(root(i), []).append(i)
    return list(groups.values())
