"""The inventory of a collection's rows, against a plain dictionary."""

import random
import tracemalloc
import zlib

import pytest

from similar_images.images.image_files import FoundImage
from similar_images.loading import inventory
from similar_images.loading.inventory import Inventory, State
from similar_images.milvus.schema import StoredImage


def compare(stored: dict[str, StoredImage], found: list[FoundImage]) -> Inventory:
    """Check an inventory's answers against those of a dictionary of the rows."""
    ours = Inventory(stored.values())
    assert len(ours) == len(stored)
    for image in found:
        if image.path not in stored:
            expected = State.NEW
        else:
            expected = State.KEPT if stored[image.path] == tuple(image) else State.CHANGED
        assert ours.find(image) is expected, image
    return ours


def random_images(seed: int) -> tuple[dict[str, StoredImage], list[FoundImage]]:
    """Rows of 400 files, and a folder in which some of them are new, changed, or gone."""
    rng = random.Random(seed)
    names = [f"{rng.choice(['frog', '猫', 'a b'])}/{n}.png" for n in range(500)]
    stored = {name: StoredImage(name, rng.randrange(3), rng.randrange(3)) for name in names[:400]}
    found = []
    for name in rng.sample(names, 350):
        if name in stored and rng.random() < 0.7:
            found.append(FoundImage(*stored[name]))
        else:
            found.append(FoundImage(name, rng.randrange(3), rng.randrange(3)))
    return stored, found


@pytest.mark.parametrize("seed", range(5))
def test_states_and_lost_rows_are_those_of_a_dictionary(seed: int) -> None:
    stored, found = random_images(seed)
    ours = compare(stored, found)
    there = {image.path for image in found}
    unreadable = sorted(there & stored.keys())[:10]
    for path in [*unreadable, "never/seen.png"]:
        ours.lose(path)
    gone = (stored.keys() - there) | set(unreadable)
    assert ours.gone() == len(gone) > 0
    assert {path for path in [*stored, *there] if ours.is_gone(path)} == gone


def test_paths_of_the_same_hash_are_told_apart_and_never_taken_for_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def few(value: object) -> int:
        return zlib.crc32(value.encode()) % 5 if isinstance(value, str) else hash(value)

    monkeypatch.setattr(inventory, "hash", few, raising=False)
    stored, _ = random_images(0)
    ours = Inventory(stored.values())
    kept = [FoundImage(*row) for row in stored.values()]
    assert all(ours.find(image) is State.KEPT for image in kept)
    changed = FoundImage(kept[0].path, 99, 99)
    assert ours.find(changed) is State.CHANGED
    assert not any(ours.is_gone(path) for path in stored)


def test_an_empty_collection_has_nothing() -> None:
    ours = Inventory([])
    assert ours.find(FoundImage("a.png", 1, 1)) is State.NEW
    assert not ours.is_gone("a.png")
    assert ours.gone() == 0


def test_a_row_takes_less_than_a_hundred_bytes() -> None:
    rows = 100_000
    tracemalloc.start()
    ours = Inventory(StoredImage(f"frog/{n:08}.png", n, n) for n in range(rows))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(ours) == rows
    assert peak < 100 * rows
