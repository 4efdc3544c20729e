"""When which fault happens: the same for the same seed. Pure: knows nothing of processes.

Faults follow one another closely and overlap, but not on the same resource. Those of PostgreSQL have it to
themselves: while it is away nothing can recover from anything else, and what is measured would be their sum.
"""

import random
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

# Seconds after a worker's end before PostgreSQL may go: its leases have run out and its executions were taken up.
SETTLED = 20.0
# Seconds after a fault of PostgreSQL before a worker may be harmed: every sweeper has found it again.
FOUND_AGAIN = 5.0


@dataclass(frozen=True)
class Kind:
    """A kind of fault. `resources` are what it harms: no two faults harm the same one at once."""

    name: str
    resources: frozenset[str]
    # Seconds from its begin to its end, in a small run and in a full one; some include a restart.
    lasts: float
    lasts_long: float
    # Whether the executions, or mails, that it touches are lost to their worker, and go on in a later attempt.
    costs_attempt: bool = False
    # Seconds in which 99 of 100 executions have to have recovered.
    limit: float | None = None

    @property
    def is_of_mail(self) -> bool:
        """Whether what it touches are mails."""
        return self.resources <= {"mail", "notifications"}

    @property
    def is_alone(self) -> bool:
        return "postgres" in self.resources


class Planned(NamedTuple):
    """A fault to be: `at` and `lasts` in seconds, `at` from the begin of the run."""

    at: float
    kind: Kind
    lasts: float

    @property
    def until(self) -> float:
        return self.at + self.lasts


# Seconds before the first fault, so that it finds something to harm.
LEAD = 6.0


def plan(seed: int, kinds: Iterable[Kind], count: int, pause: float, *, long: bool = False) -> list[Planned]:
    """Return so many faults in order: each kind once before any comes again, at least `pause` seconds apart."""
    chance = random.Random(seed)  # noqa: S311 — it has to be repeatable
    planned: list[Planned] = []
    for waiting in _rounds(list(kinds), count, chance):
        while waiting:
            earliest = {kind: _earliest(planned, kind, pause) for kind in waiting}
            first = min(earliest.values())
            kind = chance.choice([each for each in waiting if earliest[each] <= first])
            planned.append(Planned(first, kind, kind.lasts_long if long else kind.lasts))
            waiting.remove(kind)
    return planned


def _rounds(kinds: list[Kind], count: int, chance: random.Random) -> Iterable[list[Kind]]:
    while count > 0:
        yield chance.sample(kinds, min(count, len(kinds)))
        count -= len(kinds)


def _earliest(planned: list[Planned], kind: Kind, pause: float) -> float:
    """Return the first moment at which a fault of this kind may follow what is planned."""
    times = [LEAD, *(each.at + pause for each in planned)]
    for each in planned:
        if kind.resources & each.kind.resources:
            times.append(each.until + pause)
        elif kind.is_alone:
            times.append(each.until + (SETTLED if each.kind.costs_attempt else 0))
        elif each.kind.is_alone:
            times.append(each.until + (FOUND_AGAIN if kind.costs_attempt else 0))
    return max(times)
