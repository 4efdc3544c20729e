"""The schedule: the same for the same seed, every kind in turn, and nothing that would hide something else."""

from itertools import combinations

import pytest

from chaos.__main__ import PAUSE
from chaos.faults import KINDS
from chaos.play import starts
from chaos.schedule import SETTLED, Planned, plan

SEEDS = range(20)


def planned(seed: int, count: int = len(KINDS), *, long: bool = False) -> list[Planned]:
    return plan(seed, KINDS, count, PAUSE, long=long)


def test_a_seed_gives_the_same_run_again() -> None:
    assert planned(7) == planned(7)
    assert planned(7) != planned(8)
    assert starts(7, 50, 100.0) == starts(7, 50, 100.0)
    assert starts(7, 50, 100.0) != starts(8, 50, 100.0)


@pytest.mark.parametrize("seed", SEEDS)
def test_every_kind_comes_once_before_any_comes_again(seed: int) -> None:
    names = [each.kind.name for each in planned(seed, 2 * len(KINDS))]
    assert set(names[: len(KINDS)]) == set(names[len(KINDS) :]) == {kind.name for kind in KINDS}


@pytest.mark.parametrize("seed", SEEDS)
def test_no_two_faults_harm_the_same_at_once(seed: int) -> None:
    for one, other in combinations(planned(seed, 60, long=True), 2):
        if one.kind.resources & other.kind.resources:
            assert one.until <= other.at or other.until <= one.at


@pytest.mark.parametrize("seed", SEEDS)
def test_postgresql_goes_only_when_workers_have_recovered(seed: int) -> None:
    faults = planned(seed, 60, long=True)
    for number, fault in enumerate(faults):
        if fault.kind.is_alone:
            before = [each for each in faults[:number] if each.kind.costs_attempt]
            assert all(each.until + SETTLED <= fault.at for each in before)


def test_a_small_run_is_short_and_a_full_one_not_too_long() -> None:
    assert max(each.until for seed in SEEDS for each in planned(seed)) < 200
    assert max(each.until for seed in SEEDS for each in plan(seed, KINDS, 60, 6.0, long=True)) < 660
    assert len(KINDS) >= 15
