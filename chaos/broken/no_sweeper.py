"""Nobody takes back what a dead worker held."""

from main.models import Execution


def take_nothing_back() -> list[str]:
    return []


Execution.take_back = take_nothing_back  # type: ignore[method-assign]
