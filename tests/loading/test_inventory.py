"""The inventory: which images are new, changed or kept, and which rows have no image."""

import random

from similar_images.images.image_files import FoundImage
from similar_images.loading.inventory import Inventory
from similar_images.milvus.schema import StoredImage


def test_every_image_is_to_do_or_kept_and_every_other_row_missing() -> None:
    rng = random.Random(1)
    stored = {StoredImage(f"猫/{n}.png", rng.randrange(3), rng.randrange(3)) for n in range(400)}
    found = {FoundImage(f"猫/{n}.png", rng.randrange(3), rng.randrange(3)) for n in range(99, 500)}
    ours = Inventory(iter(stored))
    for image in found:
        ours.compare(image, "")
    kept = {image.path for image in found & {FoundImage(*image[:3]) for image in stored}}
    rows, there = {image.path for image in stored}, {image.path for image in found}
    assert (ours.rows, ours.kept) == (400, len(kept))
    assert kept
    assert sorted(image.path for image in ours.todo) == sorted(there - kept)
    assert set(ours.missing([])) == rows - there
    unreadable = [f"猫/{n}.png" for n in (*range(395, 405), 999)]
    expected = (rows - there) | ((rows & set(unreadable)) - kept)
    assert sorted(ours.missing(unreadable)) == sorted(expected)
