"""ranks.py: every picture is one rank's."""

import pytest

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


@pytest.mark.parametrize(("rank", "prefix"), [("0", "rank 0: "), ("3", "rank 3: ")])
def test_an_error_says_which_rank_met_it(rank: str, prefix: str) -> None:
    ranks = Ranks()
    assert ranks.prefix == ""
    ranks.count, ranks.rank = 4, int(rank)
    assert ranks.prefix == prefix
