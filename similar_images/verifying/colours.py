"""Tone and colours of two views: lightness, tint, saturation, and by how much they differ."""

import numpy as np

from similar_images.verifying.opencv import cv2

LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # the weights of ITU-R BT.601
CELL = 7  # pixels at half the size of a view: the squares whose mean difference counts
CLIPPED = (2, 253)  # grey levels: what lies outside may have been cut off by a change of tone
LIGHT = 245  # grey levels: a lighter channel may have lost its tint
MOST_GAIN = 3.0  # of contrast or of saturation
GREY = 20.0  # grey levels by which colours may differ from a tint
TINT, CLEAR_TINT = 6.0, 15.0  # grey levels: less is no colour; less may be called grey


def luma(view: np.ndarray) -> np.ndarray:
    """Return the lightness of a view (height, width, 3) uint8: float32, 0 to 255."""
    grey: np.ndarray = cv2.transform(view.astype(np.float32), LUMA[None])
    return grey


def clipped(view: np.ndarray, light: int = CLIPPED[1]) -> tuple[np.ndarray, np.ndarray]:
    """Return where a view has a channel that is nearly 0, and one that is at least light: bool."""
    red, green, blue = cv2.split(view)
    darkest, lightest = cv2.min(cv2.min(red, green), blue), cv2.max(cv2.max(red, green), blue)
    return darkest <= CLIPPED[0], lightest >= light


def fitted_tone(values: np.ndarray, targets: np.ndarray) -> tuple[float, float]:
    """Return gain and offset that make most of the values (N,) equal the targets (N,)."""
    most = np.ones(len(values), bool)
    gain, offset = 1.0, 0.0
    for _ in range(4):
        x, y = values[most], targets[most]
        if len(x) < 50:
            break
        if x.var() >= 1 and np.mean((x - x.mean()) * (y - y.mean())) > 0:
            gain = float(np.sqrt(y.var() / x.var()))
        gain = min(max(gain, 1 / MOST_GAIN), MOST_GAIN)
        offset = float(y.mean() - gain * x.mean())
        errors = np.abs(gain * values + offset - targets)
        most = errors <= max(float(np.quantile(errors, 0.75)), 3.0)
    return gain, offset


class Colours:
    """The colours of a view at half its size: red and blue less the lightness."""

    def __init__(self, view: np.ndarray, common: np.ndarray, usable: np.ndarray) -> None:
        small = cv2.resize(view, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
        size = small.shape[1::-1]
        self.common, self.usable = (
            cv2.resize(area.astype(np.float32), size, interpolation=cv2.INTER_AREA) > 0.99
            for area in (common, usable)
        )
        light = cv2.dilate(clipped(small, LIGHT)[1].astype(np.uint8), np.ones((3, 3), np.uint8))
        grey = luma(small)
        red, _, blue = cv2.split(small.astype(np.float32))
        self.planes = [cv2.blur(plane - grey, (3, 3)) for plane in (red, blue)]
        few = self.common & (light == 0)
        lightness, values = grey[few], np.stack([plane[few] for plane in self.planes])
        self.tint = (values @ lightness) / max(float(lightness @ lightness), 1.0)
        rest = np.abs(values - self.tint[:, None] * lightness).sum(axis=0)
        # How far the colours are from one tint in proportion to the lightness, in grey levels.
        self.rest = float(np.quantile(rest, 0.95)) if len(lightness) else 0.0
        self.lightness = float(lightness.mean()) if len(lightness) else 0.0
        self.strength = float(np.abs(self.tint).sum()) * self.lightness
        is_tinted = self.strength >= TINT
        # A tint needs a range of tones: a plain object on white has one colour, too.
        many = few.sum() >= 0.35 * self.common.sum()
        ranges = bool(many and lightness.std() >= 12) if is_tinted else True
        self.is_grey = self.rest < GREY and ranges
        self.most = float(sum(map(np.abs, self.planes))[self.common].max(initial=0))


def differ_clearly(colours: list[Colours]) -> bool:
    """Return whether only one of two views has clear colours, of all or of some of it."""
    least, most = sorted(side.most for side in colours)
    return max(side.rest for side in colours) > 1.5 * GREY or least < GREY < most / 1.5


def are_tinted_alike(colours: list[Colours]) -> bool:
    """Return whether two views have the same tint, or none."""
    most = max(side.lightness for side in colours)
    return float(np.abs(colours[0].tint - colours[1].tint).sum() * most) < TINT


def colour_difference(
    ours: Colours, theirs: Colours, may_fade: bool
) -> tuple[tuple[float, float], float]:
    """Return the colour difference and the change of saturation; see Difference.

    may_fade: whether the saturation may have been changed.
    """
    usable = ours.usable
    if not usable.any():
        return (0.0, 0.0), 1.0
    spread = [
        sum(float(np.square(p[usable]).mean()) for p in side.planes) for side in (ours, theirs)
    ]
    factor = float(np.sqrt((spread[0] + 8) / (spread[1] + 8)))
    factor = min(max(factor, 1 / MOST_GAIN), MOST_GAIN) if may_fade else 1.0
    first = [plane / max(factor, 1.0) for plane in ours.planes]
    second = [plane * min(factor, 1.0) for plane in theirs.planes]
    weights = usable.astype(np.float32)
    size = (CELL, CELL)
    weight = np.maximum(cv2.blur(weights, size), 1e-6)
    means = [[cv2.blur(p * weights, size) / weight for p in side] for side in (first, second)]
    error = sum(np.abs(a - b) for a, b in zip(*means, strict=True))
    much = np.maximum(*(sum(map(np.abs, side)) for side in means))
    error = np.where((weight < 0.5) | ~ours.common, 0, error)
    share = float(error[usable].mean() / (much[usable].mean() + 4))
    return (float(error.max()), share), factor
