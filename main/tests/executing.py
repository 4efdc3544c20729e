"""Executions of flows by this process's own engine, one attempt at a time."""

from typing import Any

from main.engine import execute
from main.leases import worker_name
from main.models import Execution
from main.registry import get_flow
from main.tests import rows


def waiting(flow: str = "count_flow", **inputs: Any) -> Execution:
    return rows.waiting(flow, inputs=get_flow(flow).validate(inputs))


def claim() -> Execution:
    found = Execution.claim_next(rows.KIND, worker_name())
    assert found
    return found


def executed(flow: str, **inputs: Any) -> Execution:
    """Run one attempt at a new execution of the flow and return what became of it."""
    execution = waiting(flow, **inputs)
    execute(claim())
    return fresh(execution)


def fresh(execution: Execution) -> Execution:
    return Execution.objects.get(id=execution.id)
