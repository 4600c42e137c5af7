"""What differs between two views that lie on each other, beyond compression, scale and tone."""

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from similar_images.images.reductions import Reduction, opened
from similar_images.verifying.colours import (
    CLEAR_TINT,
    GREY,
    Colours,
    are_tinted_alike,
    clipped,
    colour_difference,
    differ_clearly,
    fitted_tone,
    luma,
)
from similar_images.verifying.opencv import cv2
from similar_images.verifying.surroundings import Outside, outside
from similar_images.verifying.transform import Transform, inside_of, laid_on, refined

SMOOTH = 0.7  # pixels: the blur of both views before they are compared
CELL, SHIFT_CELL = 9, 21  # pixels: the squares whose mean difference counts
EDGE = 3  # pixels along the edge of the common part that are not compared
BLURS = (0.4, 0.6, 0.8, 1.0, 1.3, 1.7, 2.2, 3.0, 4.0, 5.5, 7.5)  # pixels: tried for equal sharpness
SHARPER = 1.15  # times the other's fine structure: from here on one view is blurred to match
TEXTURE = 2.0  # grey levels: the least deviation of a textured cell
TEXTURED = 0.3  # the least share of textured pixels in images whose tone may have been changed
NOTHING = -1.0  # the difference of a cell outside the common part
LEAST_COMMON = 400  # pixels
SAMPLE = 6000  # pixels by which tone, texture and sharpness are judged
_opened = lru_cache(maxsize=32)(opened)  # each view is needed for two transforms, or more pairs


class Difference(NamedTuple):
    """How two images differ where they lie on each other, and what lies outside.

    typical: the mean difference of a cell in grey levels that a quarter of the cells exceed.
    cells: (height, width) float32, each cell's difference, on the coarser view; less than 0 outside
    the common part. colour: the largest difference of a cell in
    colour after a change of saturation, and the mean one as a share of the colours. shift: in
    images of few plain colours, the largest difference of an area. gain, offset: the tone of the
    second in that of the first. greyed: which of the two have lost their colours. saturation: the
    second's in the first's. common: the share of each view that lies on the other. outside: the
    rest of each.
    """

    typical: float
    cells: np.ndarray
    colour: tuple[float, float]
    shift: float
    gain: float
    offset: float
    greyed: tuple[bool, bool]
    saturation: float
    common: tuple[float, float]
    outside: tuple[Outside, Outside]


def difference(one: Reduction, other: Reduction, transform: Transform) -> Difference | None:
    """Return how two images differ; None if too little of them lies on each other.

    transform: how the second view lies on the first. The finer view is laid on the coarser one.
    """
    views = [_opened(one.view), _opened(other.view)]
    opacities = [opened(side.opacity, "L") if side.opacity else None for side in (one, other)]
    if transform.mirrored:
        views[1] = np.ascontiguousarray(views[1][:, ::-1])
        opacities[1] = None if opacities[1] is None else opacities[1][:, ::-1]
    on_first = transform.scale <= 1
    base, laid = views if on_first else views[::-1]
    matrix = transform.matrix if on_first else transform.inverse()
    matrix = refined(base, laid, matrix)
    inside = inside_of(base.shape, laid.shape, matrix)
    common = cv2.erode(inside, np.ones((2 * EDGE + 1,) * 2, np.uint8), borderValue=0) > 0
    if common.sum() < LEAST_COMMON:
        return None
    back = inside_of(laid.shape, base.shape, cv2.invertAffineTransform(matrix))
    pair = _Pair(base, laid_on(laid, matrix, base), common)
    pair.equalise_sharpness()
    seen = pair.compare()
    if any(opacity is not None for opacity in opacities):
        ours, theirs = (
            np.full(view.shape[:2], 255, np.float32) if opacity is None else opacity
            for view, opacity in zip(views, opacities, strict=True)
        )
        below, above = (ours, theirs) if on_first else (theirs, ours)
        above = laid_on(np.ascontiguousarray(above, np.float32), matrix, base)
        seen.cells[:] = np.maximum(seen.cells, pair.cell_means(_beyond_a_pixel(above, below), CELL))
    areas = [float(inside.mean()), float(back.mean())]
    outsides = [outside(base, inside), outside(laid, back)]
    if not on_first:
        areas.reverse()
        outsides.reverse()
        seen = seen.turned_round()
    return Difference(
        typical=float(np.quantile(seen.cells[common], 0.75)),
        colour=seen.colour,
        shift=seen.shift,
        cells=np.where(common, seen.cells, NOTHING),
        gain=seen.gain,
        offset=seen.offset,
        greyed=seen.greyed,
        saturation=seen.saturation,
        common=(areas[0], areas[1]),
        outside=(outsides[0], outsides[1]),
    )


class _Seen(NamedTuple):
    cells: np.ndarray
    colour: tuple[float, float]
    shift: float
    gain: float
    offset: float
    greyed: tuple[bool, bool]
    saturation: float

    def turned_round(self) -> "_Seen":
        """Return the same with the two images exchanged."""
        gain = 1 / max(self.gain, 0.01)
        return self._replace(
            gain=gain,
            offset=-self.offset * gain,
            greyed=self.greyed[::-1],
            saturation=1 / max(self.saturation, 0.01),
        )


class _Pair:
    """Two views on one grid, uint8, and where both show something: (height, width) bool."""

    def __init__(self, base: np.ndarray, laid: np.ndarray, common: np.ndarray) -> None:
        self.views, self.common = (base, laid), common
        self.greys = [luma(view) for view in self.views]
        self._weights = common.astype(np.float32)
        self._places = np.flatnonzero(common)[:: max(1, int(common.sum()) // SAMPLE)]

    def cell_means(self, values: np.ndarray, side: int) -> np.ndarray:
        """Return the mean of the values in the square around each pixel; 0 outside."""
        total, weight = (
            cv2.boxFilter(x, -1, (side, side), normalize=False, borderType=cv2.BORDER_CONSTANT)
            for x in (values * self._weights, self._weights)
        )
        means: np.ndarray = np.where(weight >= 0.7 * side * side, total / np.maximum(weight, 1), 0)
        return means

    def equalise_sharpness(self) -> None:
        """Blur the sharper view."""
        smooth = [cv2.blur(grey, (5, 5)) for grey in self.greys]
        few = [grey.ravel()[self._places] for grey in smooth]
        gain = max(fitted_tone(few[1], few[0])[0], 0.05)
        edges = _edges(smooth[0] + gain * smooth[1], self._places)
        ours, theirs = self.greys[0], gain * self.greys[1]
        fine = _fine(ours, edges), _fine(theirs, edges)
        if max(fine) <= SHARPER * min(fine):
            return
        number = int(fine[1] > fine[0])
        sharp = (ours, theirs)[number]
        blur = BLURS[-1]
        for blur in BLURS:
            if _fine(cv2.GaussianBlur(sharp, (0, 0), blur), edges) <= 1.05 * min(fine):
                break
        self.greys[number] = cv2.GaussianBlur(self.greys[number], (0, 0), blur)

    def compare(self) -> _Seen:
        """Return what differs once tone and saturation are fitted."""
        ours, theirs = (cv2.GaussianBlur(grey, (0, 0), SMOOTH) for grey in self.greys)
        darks, lights = zip(*map(clipped, self.views), strict=True)
        usable = self.common & ~(darks[0] | darks[1] | lights[0] | lights[1])
        sample = self._places[usable.ravel()[self._places]]
        if len(sample) < len(self._places) / 5:
            usable, sample = self.common, self._places
        gain, offset = fitted_tone(theirs.ravel()[sample], ours.ravel()[sample])
        textured = self._is_textured(ours) or self._is_textured(theirs)
        if not textured:
            gain, offset = 1.0, 0.0  # a few plain colours: another tone is another object
        target, expected, dark, light = ours, gain * theirs + offset, darks[0], lights[0]
        if gain < 1:  # errors are seen in the view that has more contrast
            target, expected = theirs, (ours - offset) / max(gain, 0.05)
            dark, light = darks[1], lights[1]
        beyond = _beyond_a_pixel(target, expected.clip(0, 255))
        beyond[(light & (target < expected)) | (dark & (target > expected))] = 0
        colours = [Colours(view, self._weights, usable) for view in self.views]
        greyed = colours[0].is_grey, colours[1].is_grey
        same_tint = are_tinted_alike(colours)
        both_tinted = min(side.strength for side in colours) >= CLEAR_TINT
        if all(greyed) and same_tint and differ_clearly(colours):
            greyed = colours[0].most < GREY, colours[1].most < GREY
        difference, saturation = (0.0, 0.0), 1.0
        faint = greyed[0] != greyed[1] and not differ_clearly(colours)
        if not any(greyed) or ((all(greyed) or faint) and (same_tint or both_tinted)):
            difference, saturation = colour_difference(colours[0], colours[1], may_fade=textured)
        if faint:
            greyed, difference = (False, False), (difference[0], 0.0)
        cells = self.cell_means(beyond, CELL)
        shift = 0.0 if textured else self._shift(ours - theirs, colours, any(greyed))
        return _Seen(cells, difference, shift, gain, offset, greyed, saturation)

    def _shift(self, lightness: np.ndarray, colours: list[Colours], greyed: bool) -> float:
        """Return the largest mean difference of a large cell: of an area with another colour."""
        shifts = [np.abs(self.cell_means(lightness, SHIFT_CELL)).max()]
        if greyed:  # then only the lightness can be compared
            return float(shifts[0])
        common, size = colours[0].common, (SHIFT_CELL // 2,) * 2
        weight = np.maximum(cv2.blur(common.astype(np.float32), size), 0.5)
        for one, other in zip(colours[0].planes, colours[1].planes, strict=True):
            means = cv2.blur((one - other) * common, size) / weight
            shifts.append(np.abs(means[common]).max(initial=0))
        return float(max(shifts))

    def _is_textured(self, grey: np.ndarray) -> bool:
        mean = cv2.blur(grey, (CELL, CELL))
        variance = (cv2.blur(grey * grey, (CELL, CELL)) - mean * mean).ravel()[self._places]
        return bool((variance > TEXTURE * TEXTURE).mean() >= TEXTURED)


def _edges(grey: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Return those places where the lightness changes most: noise adds the least there."""
    gradient = cv2.morphologyEx(grey, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8))
    steps: np.ndarray = gradient.ravel()[places]
    chosen: np.ndarray = places[steps >= np.quantile(steps, 0.75)]
    return chosen


def _fine(grey: np.ndarray, places: np.ndarray) -> float:
    """Return how much fine structure a view has at these places."""
    return float(np.abs(cv2.Laplacian(grey, cv2.CV_32F, ksize=1).ravel()[places]).mean())


def _beyond_a_pixel(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return by how much each value lies outside those around it in the other view, and back."""
    around = np.ones((3, 3), np.uint8)
    beyond = np.zeros_like(one)
    for x, y in ((one, other), (other, one)):
        np.maximum(
            beyond, np.maximum(x - cv2.dilate(y, around), cv2.erode(y, around) - x), out=beyond
        )
    return beyond
