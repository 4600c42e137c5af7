"""The rest of a view, outside what it has in common with another: border, frame, or more to see."""

from typing import NamedTuple

import numpy as np

from similar_images.verifying.opencv import cv2

CELL = 9  # pixels: the squares whose fine structure counts
BUSY = 4.0  # grey levels of fine structure: a border, or a blurred frame, has less
UNIFORM = 8  # grey levels by which one colour differs after compression
# Pixels around the common part, whose fine structure counts as its own; fewer for a thin rest.
MARGIN, THIN_MARGIN = 8, 2
LEAST_OUTSIDE = 0.005  # the share of a view that is looked at
EDGE_LINES = 0.06  # of the height: the status line of a screen
BESIDE = 6  # pixels from the line around the common part to those it is compared with
PLAIN_LINE = 3.5  # grey levels: a line that deviates less says nothing
MOST_CONTRAST = 2.5  # between the fine structure on both sides of such a line
CONTINUED = 0.38  # Lin's concordance, -1 to 1, of both sides of a line through one image


class Outside(NamedTuple):
    """What a view shows outside the part that it has in common with another.

    busy: the share of it that is neither plain nor blurred. on_edge: whether all that is busy lies
    in the upper corners, as the status line of a screen. framed: whether it has one colour, or
    differs from what it surrounds along the line between them, as a border does.
    continued: whether what is inside surely continues there, as around a crop. unclear: whether it
    may be a blurred frame as well as what lies out of focus around a crop.
    """

    busy: float = 0.0
    on_edge: bool = True
    framed: bool = False
    continued: bool = True
    unclear: bool = False


def outside(view: np.ndarray, inside: np.ndarray) -> Outside:
    """Return what a view shows where the other one (inside: uint8 of 0 and 1) does not lie."""
    for margin in (MARGIN, THIN_MARGIN):
        rest = cv2.erode(1 - inside, np.ones((2 * margin + 1,) * 2, np.uint8), borderValue=1) > 0
        if rest.mean() >= LEAST_OUTSIDE:
            break
    else:
        return Outside()
    grey = cv2.cvtColor(view, cv2.COLOR_RGB2GRAY).astype(np.float32)
    fine = cv2.blur(np.abs(grey - cv2.blur(grey, (7, 7))), (CELL, CELL))
    busy = rest & (fine > BUSY)
    height, width = view.shape[:2]
    elsewhere = busy.copy()
    for columns in (slice(0, width // 3), slice(width - width // 3, width)):
        elsewhere[: round(EDGE_LINES * height), columns] = False
    middle_colour = np.median(view[rest], axis=0)
    uniform = (np.abs(view[rest] - middle_colour).max(axis=1) <= UNIFORM).mean() >= 0.9
    continued, finer = _both_sides(grey, inside)
    framed = bool(uniform) or _has_step(grey, inside)
    return Outside(
        busy=float(busy.sum() / rest.sum()),
        on_edge=not elsewhere.any(),
        framed=framed,
        continued=continued,
        unclear=finer and not framed,
    )


def _line(area: np.ndarray) -> np.ndarray:
    """Return the line around an area, without the edge of the view: bool."""
    line: np.ndarray = cv2.morphologyEx(area, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
    line[[0, -1]] = line[:, [0, -1]] = False
    return line


def _has_step(grey: np.ndarray, inside: np.ndarray) -> bool:
    """Return whether the lightness changes more along the line around an area than beside it."""
    steps = cv2.morphologyEx(grey, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8))
    beside = np.ones((2 * BESIDE + 1,) * 2, np.uint8)
    lines = map(_line, (inside, cv2.erode(inside, beside), cv2.dilate(inside, beside)))
    there, *others = (float(steps[line].mean()) if line.any() else 0.0 for line in lines)
    return there > 1.5 * max(others) + 4


def _both_sides(grey: np.ndarray, inside: np.ndarray) -> tuple[bool, bool]:
    """Return whether a view shows the same on both sides of the line around an area.

    And whether one side is much finer, as an image in a blurred frame is.
    """
    line, size = _line(inside), (BESIDE + 3, BESIDE + 3)
    pixel = np.ones((3, 3), np.uint8)  # the line may be one pixel off
    areas = [cv2.erode(side, pixel).astype(np.float32) for side in (inside, 1 - inside)]
    within, beyond = (
        (cv2.blur(grey * area, size) / np.maximum(cv2.blur(area, size), 1e-6))[line]
        for area in areas
    )
    if len(within) < BESIDE:
        return False, False
    fine = np.abs(grey - cv2.blur(grey, (3, 3)))
    beside = cv2.dilate(line.astype(np.uint8), np.ones(size, np.uint8)) > 0
    ours, theirs = (float((fine * area)[beside].mean()) for area in areas)
    if max(ours, theirs) > MOST_CONTRAST * min(ours, theirs):
        return False, True
    if min(within.std(), beyond.std()) < PLAIN_LINE:
        return False, False
    apart = within.var() + beyond.var() + (within.mean() - beyond.mean()) ** 2
    return bool(1 - np.square(within - beyond).mean() / apart >= CONTINUED), False
