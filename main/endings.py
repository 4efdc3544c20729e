"""What other apps are told: that executions have ended. They subscribe in their `apps.py`.

It is told in the transaction in which the end is written down, so that what an app stores about it is stored or
not stored together with the end.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from main.models import Execution

Listener = Callable[[Sequence["Execution"]], None]

_listeners: list[Listener] = []


def on_end(listener: Listener) -> None:
    """Have a function called with executions as they end. Of each of them at least `id` and `owner_id` are read."""
    _listeners.append(listener)


def tell(executions: "Sequence[Execution]") -> None:
    """Tell all who subscribed; called by the verbs that end executions, in their transaction."""
    if executions:
        for listener in _listeners:
            listener(executions)
