"""The verdict on two images: the same as a whole, the same in part, or not near-duplicates.

One principle decides: a copy is an image whose whole content is in the one that is kept, with no
less detail there.
"""

from typing import NamedTuple

import numpy as np

from similar_images.images.reductions import Reduction, view_size
from similar_images.verifying import tiny_images
from similar_images.verifying.difference import NOTHING, Difference, difference
from similar_images.verifying.features import LEAST_SIDE, unpacked
from similar_images.verifying.surroundings import Outside
from similar_images.verifying.transform import Transform, by_features, whole

SAME, PART = "same", "part"
ALIKE = 0.6  # correlation of tiny forms from which on two images may be the same as a whole
# Grey levels by which a cell must differ: after a change of tone, else, and where nearly all other
# cells are equal to the last digit, as in graphics that were saved alike.
TONED_LIMIT, LIMIT, EQUAL_LIMIT, EQUAL = 18.0, 14.0, 4.0, 0.02
TONED_COLOUR_LIMIT, COLOUR_LIMIT, EQUAL_COLOUR_LIMIT = 50.0, 32.0, 8.0  # likewise
COLOUR_SHARE = 0.35  # of the colours
PLAIN_SHIFT, EQUAL_SHIFT = 8.0, 4.0  # grey levels, likewise
TINT_LIMIT = 30.0  # of two images without colours
PART_AGREES = 0.25  # the least share of an image that agrees with the other
# The share of the common part that may differ: of images that are alike at 32×32 pixels, and of
# those with common features.
MOST_IF_ALIKE, MOST_IF_MOVED = 0.2, 0.75
COVERED = 0.985  # the share of an image in common from which on the rest counts for nothing
FRAME_BUSY = 0.12  # the share of a screen's frame that its signs take
DETAIL = 0.8  # of a crop's detail that the whole must have
TONE = 0.1, 8.0  # change of contrast; grey levels: less is not named
SATURATION, STRETCH, DEGREES, SIZE = 1.25, 1.04, 1.0, 1.02  # likewise


class Verdict(NamedTuple):
    """What two images have in common.

    kind: SAME or PART. changes: in words that hold in both directions; none: the same pixels.
    better: which of two that are the SAME has more to keep, whatever their sizes: 1 the first, -1
    the second, 0 neither. pixels: how many of the first one of the second covers, along a side.
    """

    kind: str
    changes: tuple[str, ...] = ()
    better: int = 0
    pixels: float = 1.0

    def turned_round(self) -> "Verdict":
        """Return the verdict on the same images in the other order."""
        return self._replace(better=-self.better, pixels=1 / self.pixels)

    @property
    def words(self) -> str:
        """The changes as text."""
        return ", ".join(self.changes) or "the same pixels"


def verify(one: Reduction, other: Reduction) -> Verdict | None:
    """Return the verdict on two images; None if they are no near-duplicates.

    It does not depend on their order, but for the sign of better.
    """
    if _order(other) < _order(one):
        found = verify(other, one)
        return found and found.turned_round()
    if one.digest == other.digest and not one.scaled and not other.scaled:
        return Verdict(SAME)
    if min(one.width, one.height, other.width, other.height) < LEAST_SIDE:
        verdict = _of_tiny(one, other)
    else:
        verdict = _of_views(one, other)
    if verdict and verdict.kind == SAME and not (one.shown_whole and other.shown_whole):
        return Verdict(PART, (*verdict.changes, "other frames or bits not compared"))
    return verdict


def _order(image: Reduction) -> tuple[bytes, int, int]:
    return image.digest, image.file_size, image.modified_at


# --- Views ------------------------------------------------------------------------------------


def _of_views(one: Reduction, other: Reduction) -> Verdict | None:
    """Return the verdict by the transform that explains most: of the whole, or by features."""
    greys = [tiny_images.grey(side.tiny_pixels) for side in (one, other)]
    likeness = [tiny_images.likeness(greys[0], greys[1][:, ::step]) for step in (1, -1)]
    sizes = view_size(one), view_size(other)
    found = None
    if max(likeness) >= ALIKE:
        mirrored = likeness[1] > likeness[0]
        found = _judged(one, other, whole(*sizes, mirrored), MOST_IF_ALIKE)
        if found and found.kind == SAME and not {"border", "cropped"} & {*found.changes}:
            return found
    others = unpacked(other.features), unpacked(other.mirrored_features)
    moved = by_features(unpacked(one.features), others, max(sizes[0]))
    return (moved and _judged(one, other, moved, MOST_IF_MOVED)) or found


def _judged(one: Reduction, other: Reduction, transform: Transform, most: float) -> Verdict | None:
    """Return the verdict on two images of which the second lies on the first in this way.

    most: the share of the common part that may differ.
    """
    found = difference(one, other, transform)
    if found is None:
        return None
    compared = found.cells > NOTHING
    differing = compared & (found.cells > _limit(found))
    differs = float(differing.sum() / compared.sum())
    if (1 - differs) * max(found.common) < PART_AGREES or differs > most:
        return None
    covered = [_is_covered(*side) for side in zip(found.common, found.outside, strict=True)]
    scale = _pixel_scale(one, other, transform)
    changes = [*_moves(transform), *_tones(found), *_surroundings(found, covered)]
    if not 1 / SIZE <= scale <= SIZE:
        changes.append("resized")
    if not differs and _is_recoloured(found):
        return Verdict(PART, (*changes, "recoloured"))
    if differs:
        words = f"{max(0.1, 100 * differs):.1f}% differs ({_place(differing, compared)})"
        return Verdict(PART, (*changes, words))
    if all(covered):
        return Verdict(SAME, tuple(changes or ["re-encoded"]), _better(found), scale)
    if not any(covered):
        return Verdict(PART, tuple(changes))
    larger = covered.index(False)
    detail = 1 / scale if larger else scale
    outside = found.outside[larger]
    if outside.framed or not outside.continued or detail < DETAIL:
        return Verdict(PART, tuple(changes))
    return Verdict(SAME, tuple(changes), -1 if larger else 1, pixels=scale)


def _limit(found: Difference) -> float:
    """Return by how much a cell must differ to be another content."""
    toned = found.greyed[0] != found.greyed[1] or _is_toned(found)
    if toned:
        return TONED_LIMIT
    return EQUAL_LIMIT if found.typical < EQUAL else LIMIT


def _is_toned(found: Difference) -> bool:
    return abs(np.log(max(found.gain, 0.01))) > TONE[0] or abs(found.offset) > TONE[1]


def _is_recoloured(found: Difference) -> bool:
    most, share = found.colour
    limit, shift = TONED_COLOUR_LIMIT if _is_toned(found) else COLOUR_LIMIT, PLAIN_SHIFT
    if found.typical < EQUAL:
        limit, shift = EQUAL_COLOUR_LIMIT, EQUAL_SHIFT
    if all(found.greyed):  # two tints that differ little
        limit, share = min(limit, TINT_LIMIT), 0.0
    return most > limit or share > COLOUR_SHARE or found.shift > shift


def _is_covered(common: float, outside: Outside) -> bool:
    """Return whether all that an image shows lies on the other: the rest is plain, or a frame."""
    is_screen = outside.busy <= FRAME_BUSY and outside.on_edge
    return common >= COVERED or (not outside.unclear and (outside.busy == 0 or is_screen))


def _pixel_scale(one: Reduction, other: Reduction, transform: Transform) -> float:
    """Return how many pixels of the first image one of the second covers, along a side."""
    first, second = (
        np.sqrt(np.prod(view_size(side)) / (side.width * side.height)) for side in (one, other)
    )
    return float(transform.scale * second / first)


def _better(found: Difference) -> int:
    """Return which of two whole images has more to keep.

    The whole before a crop, without a border before with one, colour before toned.
    """
    sides = list(zip(found.common, found.outside, found.greyed, strict=True))
    one, other = (
        (common >= COVERED or outside.framed, common < COVERED and outside.framed, greyed)
        for common, outside, greyed in sides
    )
    return (one < other) - (one > other)


def _moves(transform: Transform) -> list[str]:
    words = ["mirrored"] if transform.mirrored else []
    if transform.degrees > DEGREES:
        words.append(f"rotated {transform.degrees:.0f}°")
    if transform.stretch > STRETCH:
        words.append("stretched")
    return words


def _tones(found: Difference) -> list[str]:
    if found.greyed[0] != found.greyed[1]:
        return ["without colours"]
    toned = _is_toned(found) or not 1 / SATURATION <= found.saturation <= SATURATION
    return ["toned"] if toned else []


def _surroundings(found: Difference, covered: list[bool]) -> list[str]:
    """Return in words what lies outside the common part."""
    words = []
    for common, outside, is_covered in zip(found.common, found.outside, covered, strict=True):
        if common < COVERED:
            framed = "border" if outside.busy == 0 else "frame of a screen"
            words.append(
                (framed if outside.framed else "cropped")
                if is_covered
                else "beside something else"
                if outside.framed or not outside.continued
                else "cropped"
            )
    return list(dict.fromkeys(words))


def _place(differing: np.ndarray, compared: np.ndarray) -> str:
    """Return in words where the middle of what differs lies."""
    rows, columns = (np.nonzero(compared.any(axis))[0] for axis in (1, 0))
    down, right = (
        (np.nonzero(differing)[axis].mean() - places[0]) / max(1, np.ptp(places))
        for axis, places in enumerate((rows, columns))
    )
    words = [
        ("upper", "", "lower")[min(2, int(3 * down))],
        ("left", "", "right")[min(2, int(3 * right))],
    ]
    return " ".join(filter(None, words)) or "middle"


# --- Small images -----------------------------------------------------------------------------


def _of_tiny(one: Reduction, other: Reduction) -> Verdict | None:
    """Return the verdict on two images of which one is small, by their tiny forms."""
    if min(one.lines, other.lines) < tiny_images.LEAST_LINES:
        return None
    greys = [tiny_images.grey(side.tiny_pixels) for side in (one, other)]
    found = tiny_images.aligned(*greys)
    if found is None or not found.is_same:
        return None
    changes = ["mirrored"] if found.mirrored else []
    if found.moved >= 1:
        changes.append("shifted")
    if found.stretch >= 0.06:
        changes.append("zoomed")
    if (one.width, one.height) != (other.width, other.height):
        changes.append("resized")
    rest = tiny_images.rest(one.tiny_pixels, other.tiny_pixels, found)
    if rest > tiny_images.MOST_REST:
        return Verdict(PART, (*changes, "a part differs"))
    scale = float(np.sqrt(one.width * one.height / (other.width * other.height)))
    return Verdict(SAME, tuple(changes or ["re-encoded"]), pixels=scale)
