"""What differs between two views that lie on each other, beyond compression, scale and tone."""

from typing import NamedTuple

import numpy as np

from similar_images.images.reductions import Reduction, opened
from similar_images.verifying.opencv import cv2
from similar_images.verifying.transform import Transform

LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # the weights of ITU-R BT.601
SMOOTH = 0.7  # pixels: the blur of both views before they are compared
CELL, COLOUR_CELL = 9, 7  # pixels: the squares whose mean difference counts
EDGE = 3  # pixels along the edge of the common part that are not compared
BLURS = (0.4, 0.6, 0.8, 1.0, 1.3, 1.7, 2.2, 3.0, 4.0, 5.5, 7.5)  # pixels: tried for equal sharpness
SHARPER = 1.15  # times the other's fine structure: from here on one view is blurred to match
CLIPPED = (2, 253)  # grey levels: what lies outside may have been cut off by a change of tone
MOST_GAIN = 3.0  # of contrast or of saturation
TEXTURED = 0.3  # the least share of textured pixels in images whose tone may have been changed
BUSY = 4.0  # grey levels of fine structure: a border, or a blurred frame, has less
GREY = 20.0  # by which colours may differ from a tint
TINT = 6.0  # grey levels: less is no colour
UNIFORM = 8  # grey levels by which one colour differs after compression
PLAIN_LINE = 1.0  # grey levels: a line that deviates less says nothing
CONTINUED = 0.55  # the least correlation of both sides of a line through one image
BESIDE = 6  # pixels from the line around the common part to those it is compared with
NOTHING = -1.0  # the difference of a cell outside the common part
EDGE_LINES = 0.06  # of the height: the status line of a screen
LEAST_COMMON = 400  # pixels
MARGIN = 8  # pixels around the common part, whose fine structure counts as its own
LEAST_OUTSIDE = 0.005  # the share of a view that is looked at
SAMPLE = 6000  # pixels by which tone, texture and sharpness are judged
LEAST_POINTS, LEAST_MOVE, MOST_MOVE = 12, 0.2, 6  # points; pixels


class Difference(NamedTuple):
    """How two images differ where they lie on each other, and what lies outside.

    typical: the mean difference of a cell in grey levels that a quarter of the cells exceed.
    cells: (height, width) float32, each cell's difference, on the first view if on_first, else on
    the second; less than 0 outside the common part. colour: the largest difference of a cell in
    colour after a change of saturation, and the mean one as a share of the colours. gain, offset:
    the tone of the second in that of the first. greyed: which of the two have lost their colours.
    saturation: the second's in the first's. sharper: by how many pixels the first is sharper, less
    than 0 where the second is. common: the share of each view that lies on the other. outside: what
    the rest of each view shows.
    """

    typical: float
    cells: np.ndarray
    on_first: bool
    colour: tuple[float, float]
    gain: float
    offset: float
    greyed: tuple[bool, bool]
    saturation: float
    sharper: float
    common: tuple[float, float]
    outside: tuple["Outside", "Outside"]


class Outside(NamedTuple):
    """What a view shows outside the part that it has in common with another.

    busy: the share of it that is neither plain nor blurred. on_edge: whether all that is busy lies
    along the upper and the lower edge, as the status line of a screen. framed: whether it has one
    colour, or differs from what it surrounds along the line between them, as a border does.
    continued: whether what is inside continues there, as around a crop.
    """

    busy: float = 0.0
    on_edge: bool = True
    framed: bool = False
    continued: bool = True


def difference(one: Reduction, other: Reduction, transform: Transform) -> Difference | None:
    """Return how two images differ; None if too little of them lies on each other.

    transform: how the second view lies on the first. The finer view is laid on the coarser one.
    """
    views = [opened(one.view), opened(other.view)]
    opacities = [opened(side.opacity, "L") if side.opacity else None for side in (one, other)]
    if transform.mirrored:
        views[1] = np.ascontiguousarray(views[1][:, ::-1])
        opacities[1] = None if opacities[1] is None else opacities[1][:, ::-1]
    on_first = transform.scale <= 1
    base, laid = views if on_first else views[::-1]
    matrix = transform.matrix if on_first else transform.inverse()
    matrix = refined(base, laid, matrix)
    inside = _inside(base.shape, laid.shape, matrix)
    common = cv2.erode(inside, np.ones((2 * EDGE + 1,) * 2, np.uint8), borderValue=0) > 0
    if common.sum() < LEAST_COMMON:
        return None
    back = _inside(laid.shape, base.shape, cv2.invertAffineTransform(matrix))
    pair = _Pair(base, laid_on(laid, matrix, base), common)
    sharper = pair.equalise_sharpness()
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
    outsides = [_outside(base, inside), _outside(laid, back)]
    if not on_first:
        areas.reverse()
        outsides.reverse()
        seen = seen.turned_round()
        sharper = -sharper
    return Difference(
        typical=float(np.quantile(seen.cells[common], 0.75)),
        colour=seen.colour,
        cells=np.where(common, seen.cells, NOTHING),
        on_first=on_first,
        gain=seen.gain,
        offset=seen.offset,
        greyed=seen.greyed,
        saturation=seen.saturation,
        sharper=sharper,
        common=(areas[0], areas[1]),
        outside=(outsides[0], outsides[1]),
    )


def laid_on(view: np.ndarray, matrix: np.ndarray, base: np.ndarray) -> np.ndarray:
    """Return a view where it lies on the base, smoothed first as far as it is reduced."""
    scale = float(np.sqrt(abs(np.linalg.det(matrix[:, :2]))))
    if scale < 0.5:
        height, width = (max(2, round(2 * scale * side)) for side in view.shape[:2])
        ratio = np.array([view.shape[1] / width, view.shape[0] / height])
        view = cv2.resize(view, (width, height), interpolation=cv2.INTER_AREA)
        shift = matrix[:, :2] @ ((ratio - 1) / 2) + matrix[:, 2]
        matrix, scale = np.column_stack([matrix[:, :2] * ratio, shift]), 0.5
    if scale < 1:
        view = cv2.GaussianBlur(view, (0, 0), 0.5 * np.sqrt(1 / scale**2 - 1) + 0.01)
    size = base.shape[1::-1]
    laid: np.ndarray = cv2.warpAffine(view, matrix, size, borderMode=cv2.BORDER_REPLICATE)
    return laid


def refined(base: np.ndarray, laid: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Return the matrix after a correction by how far points of the base have moved (Lucas-Kanade).

    Features are exact to a pixel or two at their own size; letters need a tenth.
    """
    grey = cv2.cvtColor(base, cv2.COLOR_RGB2GRAY)
    moved = laid_on(cv2.cvtColor(laid, cv2.COLOR_RGB2GRAY), matrix, base)
    step = max(6, min(grey.shape) // 16)
    down, right = np.mgrid[step // 2 : grey.shape[0] : step, step // 2 : grey.shape[1] : step]
    inside = _inside(base.shape, laid.shape, matrix)[down, right].ravel() > 0
    points = np.stack([right.ravel(), down.ravel()], axis=1)[inside].astype(np.float32)
    if len(points) < LEAST_POINTS:
        return matrix
    found, status, _ = cv2.calcOpticalFlowPyrLK(
        grey, moved, points[:, None], None, winSize=(15, 15), maxLevel=2, minEigThreshold=1e-3
    )
    found = found[:, 0]
    good = (status.ravel() > 0) & (np.abs(found - points).max(axis=1) < MOST_MOVE)
    if good.sum() < LEAST_POINTS:
        return matrix
    correction, agree = cv2.estimateAffine2D(
        found[good], points[good], method=cv2.USAC_MAGSAC, ransacReprojThreshold=1.0, maxIters=500
    )
    if correction is None or agree.sum() < LEAST_POINTS:
        return matrix
    corners = np.array([[0, 0, 1], [*base.shape[1::-1], 1]]).T
    if np.abs(correction @ corners - corners[:2]).max() < LEAST_MOVE:
        return matrix  # equal views stay equal
    both: np.ndarray = correction[:, :2] @ matrix
    both[:, 2] += correction[:, 2]
    return both


def _inside(base: tuple[int, ...], laid: tuple[int, ...], matrix: np.ndarray) -> np.ndarray:
    """Return where a view of the second shape lies on one of the first: uint8 of 0 and 1."""
    ones = np.ones(laid[:2], np.uint8)
    inside: np.ndarray = cv2.warpAffine(ones, matrix, base[1::-1], flags=cv2.INTER_NEAREST)
    return inside


class _Seen(NamedTuple):
    cells: np.ndarray
    colour: tuple[float, float]
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

    def equalise_sharpness(self) -> float:
        """Blur the sharper view; return by how many pixels, less than 0 if it is the laid one."""
        smooth = [cv2.blur(grey, (5, 5)) for grey in self.greys]
        few = [grey.ravel()[self._places] for grey in smooth]
        gain = max(fitted_tone(few[1], few[0])[0], 0.05)
        edges = _edges(smooth[0] + gain * smooth[1], self._places)
        ours, theirs = self.greys[0], gain * self.greys[1]
        fine = _fine(ours, edges), _fine(theirs, edges)
        if max(fine) <= SHARPER * min(fine):
            return 0.0
        number = int(fine[1] > fine[0])
        sharp = (ours, theirs)[number]
        blur = BLURS[-1]
        for blur in BLURS:
            if _fine(cv2.GaussianBlur(sharp, (0, 0), blur), edges) <= 1.05 * min(fine):
                break
        self.greys[number] = cv2.GaussianBlur(self.greys[number], (0, 0), blur)
        return -blur if number else blur

    def compare(self) -> _Seen:
        """Return what differs once tone and saturation are fitted."""
        ours, theirs = (cv2.GaussianBlur(grey, (0, 0), SMOOTH) for grey in self.greys)
        darks, lights = zip(*map(clipped, self.views), strict=True)
        usable = self.common & ~(darks[0] | darks[1] | lights[0] | lights[1])
        sample = self._places[usable.ravel()[self._places]]
        if len(sample) < len(self._places) / 5:
            usable, sample = self.common, self._places
        gain, offset = fitted_tone(theirs.ravel()[sample], ours.ravel()[sample])
        if not self._is_textured(ours) and not self._is_textured(theirs):
            gain, offset = 1.0, 0.0  # a few plain colours: another tone is another object
        target, expected, dark, light = ours, gain * theirs + offset, darks[0], lights[0]
        if gain < 1:  # errors are seen in the view that has more contrast
            target, expected = theirs, (ours - offset) / max(gain, 0.05)
            dark, light = darks[1], lights[1]
        beyond = _beyond_a_pixel(target, expected.clip(0, 255))
        beyond[(light & (target < expected)) | (dark & (target > expected))] = 0
        colours = [_Colours(view, self._weights, usable) for view in self.views]
        greyed = colours[0].is_grey, colours[1].is_grey
        difference, saturation = (0.0, 0.0), 1.0
        if greyed[0] == greyed[1] or not _differ_much(colours):
            difference, saturation = colour_difference(*colours)
            greyed = (greyed[0] and greyed[1],) * 2
        cells = self.cell_means(beyond, CELL)
        return _Seen(cells, difference, gain, offset, greyed, saturation)

    def _is_textured(self, grey: np.ndarray) -> bool:
        mean = cv2.blur(grey, (CELL, CELL))
        variance = (cv2.blur(grey * grey, (CELL, CELL)) - mean * mean).ravel()[self._places]
        return bool((variance > BUSY * BUSY).mean() >= TEXTURED)


class _Colours:
    """The colours of a view at half its size: red and blue less the lightness."""

    def __init__(self, view: np.ndarray, common: np.ndarray, usable: np.ndarray) -> None:
        small = cv2.resize(view, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
        size = small.shape[1::-1]
        self.common, self.usable = (
            cv2.resize(area.astype(np.float32), size, interpolation=cv2.INTER_AREA) > 0.99
            for area in (common, usable)
        )
        light = cv2.dilate(clipped(small, 245)[1].astype(np.uint8), np.ones((3, 3), np.uint8))
        grey = luma(small)
        red, _, blue = cv2.split(small.astype(np.float32))
        self.planes = [cv2.blur(plane - grey, (3, 3)) for plane in (red, blue)]
        few = self.common & (light == 0)
        lightness, values = grey[few], np.stack([plane[few] for plane in self.planes])
        self.tint = (values @ lightness) / max(float(lightness @ lightness), 1.0)
        rest = np.abs(values - self.tint[:, None] * lightness).sum(axis=0)
        # How far the colours are from one tint in proportion to the lightness, in grey levels.
        self.rest = float(np.quantile(rest, 0.95)) if len(lightness) else 0.0
        tinted = (
            float(np.abs(self.tint).sum() * lightness.mean()) >= TINT if len(lightness) else False
        )
        # A tint needs a range of tones: a plain object on white has one colour, too.
        ranges = few.sum() >= self.common.sum() / 2 and lightness.std() >= 20 if tinted else True
        self.is_grey = self.rest < GREY and bool(ranges)


def _differ_much(colours: list[_Colours]) -> bool:
    """Return whether only one of two views has clear colours."""
    return max(side.rest for side in colours) > 1.5 * GREY


def colour_difference(ours: _Colours, theirs: _Colours) -> tuple[tuple[float, float], float]:
    """Return the colour difference and the change of saturation; see Difference."""
    usable = ours.usable
    if not usable.any():
        return (0.0, 0.0), 1.0
    spread = [
        sum(float(np.square(p[usable]).mean()) for p in side.planes) for side in (ours, theirs)
    ]
    factor = float(np.sqrt((spread[0] + 8) / (spread[1] + 8)))
    factor = min(max(factor, 1 / MOST_GAIN), MOST_GAIN)
    first = [plane / max(factor, 1.0) for plane in ours.planes]
    second = [plane * min(factor, 1.0) for plane in theirs.planes]
    weights = usable.astype(np.float32)
    size = (COLOUR_CELL, COLOUR_CELL)
    weight = np.maximum(cv2.blur(weights, size), 1e-6)
    means = [[cv2.blur(p * weights, size) / weight for p in side] for side in (first, second)]
    error = sum(np.abs(a - b) for a, b in zip(*means, strict=True))
    much = np.maximum(*(sum(map(np.abs, side)) for side in means))
    error = np.where((weight < 0.5) | ~ours.common, 0, error)
    share = float(error[usable].mean() / (much[usable].mean() + 4))
    return (float(error.max()), share), factor


def _edges(grey: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Return those places where the lightness changes most: noise adds the least there."""
    gradient = cv2.morphologyEx(grey, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8))
    steps: np.ndarray = gradient.ravel()[places]
    chosen: np.ndarray = places[steps >= np.quantile(steps, 0.75)]
    return chosen


def _fine(grey: np.ndarray, places: np.ndarray) -> float:
    """Return how much fine structure a view has at these places."""
    return float(np.abs(cv2.Laplacian(grey, cv2.CV_32F, ksize=1).ravel()[places]).mean())


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


def _beyond_a_pixel(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return by how much each value lies outside those around it in the other view, and back."""
    around = np.ones((3, 3), np.uint8)
    beyond = np.zeros_like(one)
    for x, y in ((one, other), (other, one)):
        np.maximum(
            beyond, np.maximum(x - cv2.dilate(y, around), cv2.erode(y, around) - x), out=beyond
        )
    return beyond


def _outside(view: np.ndarray, inside: np.ndarray) -> Outside:
    """Return what a view shows where the other one (inside: uint8 of 0 and 1) does not lie."""
    rest = cv2.erode(1 - inside, np.ones((2 * MARGIN + 1,) * 2, np.uint8), borderValue=1) > 0
    if rest.mean() < LEAST_OUTSIDE:
        return Outside()
    grey = cv2.cvtColor(view, cv2.COLOR_RGB2GRAY).astype(np.float32)
    fine = cv2.blur(np.abs(grey - cv2.blur(grey, (7, 7))), (CELL, CELL))
    busy = rest & (fine > BUSY)
    height = len(view)
    middle = busy[round(EDGE_LINES * height) : height - round(EDGE_LINES * height)]
    middle_colour = np.median(view[rest], axis=0)
    uniform = (np.abs(view[rest] - middle_colour).max(axis=1) <= UNIFORM).mean() >= 0.9
    continued = _continues(grey, inside)
    return Outside(
        busy=float(busy.sum() / rest.sum()),
        on_edge=not middle.any(),
        framed=bool(uniform) or not continued or _has_step(grey, inside),
        continued=continued,
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


def _continues(grey: np.ndarray, inside: np.ndarray) -> bool:
    """Return whether a view shows the same on both sides of the line around an area."""
    line, size = _line(inside), (BESIDE + 1, BESIDE + 1)
    within, beyond = (
        (cv2.blur(grey * area, size) / np.maximum(cv2.blur(area, size), 1e-6))[line]
        for area in (inside.astype(np.float32), 1 - inside.astype(np.float32))
    )
    if len(within) < BESIDE or min(within.std(), beyond.std()) < PLAIN_LINE:
        return False
    return bool(np.corrcoef(within, beyond)[0, 1] >= CONTINUED)
