"""ranks.py: every image belongs to one rank; one progress bar for all of them."""

from collections.abc import Callable

import pytest
from helpers import LOAD
from similar_images.loading.progress import SharedProgress

import embed_and_load
from similar_images.console import Progress
from similar_images.loading.inventory import ListedPaths
from similar_images.loading.ranks import RankError, Ranks


def test_every_path_belongs_to_one_rank() -> None:
    ranks = Ranks()
    assert ranks.mine("any.png")
    ranks.count = 4
    owners = []
    for number in range(1000):
        shares = []
        for ranks.rank in range(4):
            shares.append(ranks.mine(f"猫/{number}.png"))
        assert sum(shares) == 1
        owners.append(shares.index(True))
    assert all(200 < owners.count(rank) < 300 for rank in range(4))


@pytest.mark.parametrize(("rank", "prefix"), [("0", "rank 0: "), ("3", "rank 3: ")])
def test_an_error_says_which_rank_met_it(rank: str, prefix: str) -> None:
    ranks = Ranks()
    assert ranks.prefix == ""
    ranks.count, ranks.rank = 4, int(rank)
    assert ranks.prefix == prefix


def test_the_total_is_unknown_until_all_ranks_know_theirs() -> None:
    ranks = Ranks()
    ranks.count = 2
    known: list[int | None] = [10, None]
    bars = [Progress("images", None, quiet=True) for _ in known]
    first, second = (
        SharedProgress(ranks, lambda n=n: known[n], bar)  # type: ignore[misc]
        for n, bar in enumerate(bars)
    )
    first.update(3)
    second.update(4)
    first.update()
    assert (bars[0].n, bars[0].total) == (7, None)
    known[1] = 20
    second.update(5)
    first.update()
    assert (bars[0].n, bars[0].total) == (12, 30)


def test_listed_paths_are_compared_without_their_order() -> None:
    def listed(*paths: str) -> dict[str, int]:
        found = ListedPaths()
        for path in paths:
            found.add(path)
        return vars(found)

    assert listed("a1", "b2", "猫.png") == listed("猫.png", "b2", "a1")
    assert listed("a1", "b2") != listed("a2", "b1")
    assert listed("a1") != listed("a1", "a1")


def test_variables_that_torchrun_did_not_set_are_named(
    monkeypatch: pytest.MonkeyPatch, fails: Callable[..., str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    error = fails(embed_and_load.main, *LOAD)
    assert "not set: RANK, MASTER_ADDR, MASTER_PORT" in error
    assert "torchrun" in error


@pytest.mark.parametrize("count", ["", "1", None])
def test_without_several_ranks_the_other_variables_mean_nothing(
    count: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if count is not None:
        monkeypatch.setenv("WORLD_SIZE", count)
    for name in ("RANK", "LOCAL_RANK", "GROUP_RANK"):
        monkeypatch.setenv(name, "1")
    with Ranks() as ranks:
        assert (ranks.count, ranks.rank, ranks.local_rank, ranks.node) == (1, 0, 0, 0)
        assert ranks.first


@pytest.mark.parametrize(
    "variables",
    [
        {"RANK": "x"},
        {"RANK": "2"},
        {"RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "abc"},
    ],
)
def test_variables_that_cannot_be_right_end_in_an_error_of_ours(
    variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(RankError, match="; "), Ranks():
        pass
