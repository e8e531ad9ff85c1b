"""Anamorphic videos, whose pixels are wider than high: frames are stretched to square ones. Nothing to run."""

import cv2

WIDEST_PIXEL = 4.0  # width over height, and height over width; beyond it is a damaged number


def ratio_of(capture):
    """Width of a pixel over its height as it is shown: 1.0 but for anamorphic videos, and where nobody says."""
    if not hasattr(capture, "getBackendName") or capture.getBackendName() != "FFMPEG":
        return 1.0
    wide, high = capture.get(cv2.CAP_PROP_SAR_NUM), capture.get(cv2.CAP_PROP_SAR_DEN)
    ratio = wide / high if wide > 0 and high > 0 else 1.0
    if capture.get(cv2.CAP_PROP_ORIENTATION_AUTO) and capture.get(cv2.CAP_PROP_ORIENTATION_META) % 180 == 90:
        ratio = 1 / ratio  # OpenCV has turned the picture, and the pixels with it
    return ratio if 1 / WIDEST_PIXEL <= ratio <= WIDEST_PIXEL and abs(ratio - 1) > 0.01 else 1.0


def square(frame, ratio):
    """A frame whose pixels are `ratio` times as wide as high, enlarged along one side to square ones."""
    if ratio == 1:
        return frame
    height, width = frame.shape[:2]
    size = (round(width * ratio / 2) * 2, height) if ratio > 1 else (width, round(height / ratio / 2) * 2)
    return cv2.resize(frame, size, interpolation=cv2.INTER_LINEAR)
