"""Run again: a new execution linked to the old one, from the start or from the failed step."""

from collections.abc import Mapping
from typing import Any, Protocol

from django.db import transaction
from django.utils.translation import gettext as _

from main.api import Conflict, Invalid
from main.availability import why_unavailable
from main.checkpoints import copy_checkpoints
from main.models import Entry, Execution, Step
from main.registry import Flow, InputError, UnknownFlowError, get_flow

# Why an execution may not be run again; each says it in a sentence.
REFUSALS = (UnknownFlowError, InputError, Conflict)
# What "from" may name in a request to run an execution again.
START, FAILED_STEP = "start", "failed_step"


class Way(Protocol):
    """How an execution is run again."""

    def __call__(self, execution: Execution, **fields: Any) -> Execution: ...


def run_again(execution: Execution, **fields: Any) -> Execution:
    """Start an execution with the same flow, inputs, owner, visitor and priority; `fields` are more of the new row.

    Raises UnknownFlowError, InputError or Conflict where the flow is gone, has changed or lacks a setting, and
    Conflict where it has not ended.
    """
    if not execution.is_final:
        raise Conflict(_("The execution has not ended yet."))
    with transaction.atomic():
        execution.settle()
        return _start(execution, **fields)


def run_again_from_failed_step(execution: Execution, **fields: Any) -> Execution:
    """Start an execution that has the finished steps of a failed one already, and does the rest.

    Effects are known to the outside by the id of the first of them, so that one which was asked for and not
    written down is not applied again. Raises as `run_again`, and Conflict where nothing failed.
    """
    if execution.state not in (Execution.State.FAILURE, Execution.State.CANCELLED):
        raise Conflict(_("Only what failed or was cancelled can be run again from the failed step."))
    with transaction.atomic():
        execution.settle()
        started = _start(execution, effect_scope=execution.effect_scope or execution.id, **fields)
        Step.copy(execution, started)
        Entry.copy(execution, started)
        copy_checkpoints(execution.id, started.id)
        return started


WAYS: dict[str, Way] = {
    START: run_again,
    FAILED_STEP: run_again_from_failed_step,
}


def requeue(execution: Execution, way: Way) -> Execution:
    """Run a dead letter again, once; raises as that does, and Conflict where it is no dead letter any more."""
    with transaction.atomic():
        drop(execution)
        return way(execution)


def drop(execution: Execution) -> None:
    """Take a dead letter off their list, once; raises Conflict where it is none any more."""
    if not execution.settle():
        raise Conflict(_("The execution is no dead letter, or not any more."))


def requested_way(body: Mapping[str, Any], default: str = "") -> Way:
    """Return the way that "from" in a request names; raises Invalid for one that there is not, or none."""
    way = WAYS.get(str(body.get("from", default)))
    if way is None:
        sentence = _("“from” is one of %(ways)s.") % {"ways": ", ".join(WAYS)}
        raise Invalid(sentence, {"from": [sentence]})
    return way


def _start(execution: Execution, **fields: Any) -> Execution:
    flow = _startable(execution)
    return Execution.start(
        flow,
        flow.validate(execution.inputs),
        owner_id=execution.owner_id,
        visitor=execution.visitor,
        priority=execution.priority,
        origin=execution,
        notify=execution.notify,
        **fields,
    )


def _startable(execution: Execution) -> Flow:
    flow = get_flow(execution.flow)
    if reason := why_unavailable(flow):
        raise Conflict(reason)
    return flow
