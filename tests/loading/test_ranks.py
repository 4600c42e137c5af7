"""ranks.py: every image belongs to one rank; what the environment says of them."""

from collections.abc import Callable

import pytest
from helpers import LOAD

import embed_and_load
from similar_images.loading.ranks import Ranks


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


@pytest.mark.parametrize("count", ["", "1", None])
def test_without_several_ranks_the_other_variables_mean_nothing(
    count: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if count is not None:
        monkeypatch.setenv("WORLD_SIZE", count)
    for name in ("RANK", "LOCAL_RANK"):
        monkeypatch.setenv(name, "1")
    with Ranks() as ranks:
        assert (ranks.count, ranks.rank, ranks.local_rank, ranks.prefix) == (1, 0, 0, "")
        assert ranks.first


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({}, "RANK expected, but not set"),
        ({"RANK": "x"}, "RANK is not from 0 to 1"),
        ({"RANK": "2"}, "RANK is not from 0 to 1"),
        ({"RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "abc"}, "abc"),
    ],
)
def test_variables_that_cannot_be_right_end_in_one_line(
    variables: dict[str, str],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    fails: Callable[..., str],
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    error = fails(embed_and_load.main, *LOAD)
    assert said in error
    assert "unset" in error
