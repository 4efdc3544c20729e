"""Requeue and drop: one dead letter or many, each once."""

import uuid
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from django.test import Client

from accounts.models import User
from main.models import Execution, Step
from main.tests.platform import Platform, Visitor
from main.tests.rows import at_once, claimed, step_record
from ops import dead_letters
from ops.tests.conftest import AWAY, dead_letter

ADDRESS = "/api/v1/ops/dead-letters"
ROLES = [("visitor", 403), ("user", 403), ("permitted user", 403), ("inactive staff", 403), ("staff", 200)]


def post(client: Client, path: str, body: Any = None) -> Any:
    return client.post(f"{ADDRESS}/{path}", body or {}, content_type="application/json")


def unsettled() -> list[uuid.UUID]:
    return list(Execution.dead_letters().values_list("id", flat=True))


@pytest.mark.django_db
@pytest.mark.parametrize(("role", "status"), ROLES)
@pytest.mark.parametrize("act", ["requeue", "drop"])
@pytest.mark.parametrize("many", [False, True])
def test_staff_act(ask: Any, role: str, status: int, act: str, many: bool) -> None:
    letter = dead_letter()
    path = f"{ADDRESS}/{act}" if many else f"{ADDRESS}/{letter.id}/{act}"
    assert ask(role, "POST", path, '{"filter": {}}' if many else "{}") == status
    assert bool(unsettled()) is (status == 403)


# One


@pytest.mark.django_db
def test_a_requeue_starts_a_new_execution_for_whom_it_was(staff: Client, bob: User) -> None:
    letter = dead_letter(inputs={"to": 7}, owner=bob, priority="low")
    response = post(staff, f"{letter.id}/requeue")
    assert response.status_code == 200
    started = Execution.objects.get(id=response.json()["task_id"])
    assert started.origin_id == letter.id
    assert (started.state, started.inputs, started.owner, started.priority) == (
        "PENDING",
        {"to": 7},
        bob,
        "low",
    )
    assert unsettled() == []


@pytest.mark.django_db
@pytest.mark.parametrize(("body", "steps"), [({}, 1), ({"from": "failed_step"}, 1), ({"from": "start"}, 0)])
@pytest.mark.parametrize("many", [False, True])
def test_from_the_failed_step_finished_steps_are_kept(
    staff: Client, body: dict[str, str], steps: int, many: bool
) -> None:
    execution = claimed()
    Step.record(execution, step_record())
    execution.finish(error=AWAY)  # type: ignore[arg-type]
    answered = (
        post(staff, "requeue", {"ids": [str(execution.id)], **body}).json()["requeued"][0]
        if many
        else post(staff, f"{execution.id}/requeue", body).json()
    )
    assert Execution.objects.get(id=answered["task_id"]).steps.count() == steps


@pytest.mark.django_db
@pytest.mark.parametrize("act", ["requeue", "drop"])
def test_what_is_no_dead_letter_is_a_409(staff: Client, act: str) -> None:
    settled, succeeded, cancelled, running = dead_letter(), claimed(), claimed(), claimed()
    settled.settle()
    succeeded.finish()
    cancelled.cancel()
    for execution in (settled, succeeded, cancelled, running):
        response = post(staff, f"{execution.id}/{act}")
        assert (response.status_code, "no dead letter" in response.json()["error"]) == (409, True)
    assert Execution.objects.count() == 4


@pytest.mark.django_db
@pytest.mark.parametrize("act", ["requeue", "drop"])
@pytest.mark.parametrize("name", ["8db6298e-f0eb-402e-9d0d-0ee5f71150b0", "x"])
def test_what_is_not_there_is_a_404(staff: Client, act: str, name: str) -> None:
    assert post(staff, f"{name}/{act}").status_code == 404


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"flow": "gone_flow"}, "There is no flow “gone_flow”"),
        ({"inputs": {"line": 1}}, "“line” is not an input of count_flow"),
        ({"flow": "needs_key_flow"}, "needs TAVILY_API_KEY"),
    ],
)
def test_what_cannot_run_is_a_409_and_stays_a_dead_letter(
    staff: Client, changed: dict[str, Any], sentence: str
) -> None:
    letter = dead_letter()
    Execution.objects.update(**changed)
    response = post(staff, f"{letter.id}/requeue", {"from": "start"})
    assert (response.status_code, sentence in response.json()["error"]) == (409, True)
    assert unsettled() == [letter.id]


@pytest.mark.django_db
def test_an_unknown_way_is_a_400(staff: Client) -> None:
    letter = dead_letter()
    asked: list[tuple[str, dict[str, Any]]] = [(f"{letter.id}/requeue", {}), ("requeue", {"filter": {}})]
    for path, more in asked:
        response = post(staff, path, {"from": "the middle", **more})
        assert response.status_code == 400
        assert response.json()["errors"] == {"from": ["“from” is one of start, failed_step."]}
    assert unsettled() == [letter.id]


@pytest.mark.django_db
@pytest.mark.parametrize("path", ["{}/requeue", "{}/drop", "requeue", "drop"])
def test_a_field_that_there_is_not_is_a_400(staff: Client, path: str) -> None:
    letter = dead_letter()
    response = post(staff, path.format(letter.id), {"form": "start"})
    assert (response.status_code, list(response.json()["errors"])) == (400, ["form"])
    assert unsettled() == [letter.id]


@pytest.mark.django_db
def test_a_dropped_one_stays_in_the_history(staff: Client) -> None:
    letter = dead_letter()
    response = post(staff, f"{letter.id}/drop")
    assert (response.status_code, response.json()) == (200, {"id": str(letter.id)})
    assert unsettled() == []
    assert Execution.objects.get().state == "FAILURE"


@pytest.mark.django_db(transaction=True)
def test_of_requeues_and_drops_at_once_one_happens(alice: User) -> None:
    letter = dead_letter()

    def act(name: str) -> int:
        client = Client()
        client.force_login(alice)
        status: int = post(client, f"{letter.id}/{name}").status_code
        return status

    statuses = at_once(*[partial(act, name) for name in ("requeue", "requeue", "drop", "requeue")])
    assert sorted(statuses) == [200, 409, 409, 409]
    assert letter.runs_again.count() <= 1


# Many


@pytest.mark.django_db
def test_of_many_each_is_said_what_happened(staff: Client) -> None:
    good, gone, settled, nobody = dead_letter(), dead_letter(), dead_letter(), uuid.uuid4()
    Execution.objects.filter(id=gone.id).update(flow="gone_flow")
    settled.settle()
    ids = [str(each) for each in (good.id, gone.id, settled.id, nobody, good.id)]
    answered = post(staff, "requeue", {"ids": ids}).json()
    started = good.runs_again.get()
    assert answered["requeued"] == [{"id": str(good.id), "task_id": str(started.id)}]
    assert [each["id"] for each in answered["refused"]] == ids[1:4]
    reasons = [each["reason"] for each in answered["refused"]]
    assert reasons[0].startswith("There is no flow “gone_flow”")
    assert reasons[1:] == [
        "The execution is no dead letter, or not any more.",
        "There is no such dead letter.",
    ]
    assert answered["more"] is False


@pytest.mark.django_db
def test_many_are_dropped(staff: Client) -> None:
    letters = [dead_letter(), dead_letter()]
    ids = [str(each.id) for each in letters]
    assert post(staff, "drop", {"ids": ids}).json() == {
        "dropped": [{"id": each} for each in ids],
        "refused": [],
        "more": False,
    }
    refused = post(staff, "drop", {"ids": ids}).json()["refused"]
    assert [each["id"] for each in refused] == ids


@pytest.mark.django_db
@pytest.mark.parametrize(("act", "done"), [("requeue", "requeued"), ("drop", "dropped")])
def test_a_filter_takes_what_fits_the_oldest_first_and_says_whether_there_is_more(
    staff: Client, monkeypatch: pytest.MonkeyPatch, act: str, done: str
) -> None:
    monkeypatch.setattr(dead_letters, "MAX_AT_ONCE", 2)
    letters = [dead_letter() for _ in range(3)]
    other = dead_letter({"type": "quota"})
    for expected, more in ((letters[:2], True), (letters[2:], False), ([], False)):
        answered = post(staff, act, {"filter": {"error": "unavailable"}}).json()
        assert [each["id"] for each in answered[done]] == [str(each.id) for each in expected]
        assert answered["more"] is more
    assert unsettled() == [other.id]


@pytest.mark.django_db
@pytest.mark.parametrize("act", ["requeue", "drop"])
@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (
            {},
            "Say which: “ids”, a list, or “filter”, an object with flow, error, owner, after, before, type.",
        ),
        ({"ids": [], "filter": {}}, "Say which"),
        ({"ids": "all"}, "Say which"),
        ({"filter": ["flow"]}, "Say which"),
        ({"ids": ["x"]}, "“ids” are the ids of dead letters."),
        ({"ids": [7]}, "“ids” are the ids of dead letters."),
        ({"ids": [str(uuid.UUID(int=n)) for n in range(1001)]}, "“ids” are 1000 at most."),
        ({"filter": {"flwo": "count_flow"}}, "There is no filter “flwo”"),
        ({"filter": {"flow": 7}}, "“flow” is no text to look for."),
        ({"filter": {"before": "soon"}}, "“before” is no ISO 8601 time"),
    ],
)
def test_what_does_not_say_which_is_a_400_and_does_nothing(
    staff: Client, act: str, body: dict[str, Any], sentence: str
) -> None:
    letter = dead_letter()
    response = post(staff, act, body)
    assert response.status_code == 400
    assert sentence in response.json()["error"]
    assert unsettled() == [letter.id]


# On the platform


def test_a_requeue_of_what_failed_succeeds_when_the_cause_is_gone(
    platform: Platform, visitor: Visitor, tmp_path: Path
) -> None:
    failed = visitor.start("order_flow", folder=str(tmp_path))
    assert list(visitor.watch(failed))[-1]["state"] == "FAILURE"
    (tmp_path / "repaired").touch()
    User.objects.filter(email="operator@example.com").delete()
    User.objects.create_user("operator@example.com", "correct horse battery", is_staff=True)
    with platform.visitor() as operator:
        operator.post(
            "/sign-in/", data={"username": "operator@example.com", "password": "correct horse battery"}
        )
        operator.headers["X-CSRFToken"] = operator.cookies["csrftoken"]
        listed = operator.get(ADDRESS, params={"flow": "order_flow"}).json()["dead_letters"]
        assert failed in [each["id"] for each in listed]
        started = operator.post(f"{ADDRESS}/{failed}/requeue", json={}).json()["task_id"]
        again = operator.post(f"{ADDRESS}/{failed}/requeue", json={})
    assert again.status_code == 409
    assert list(visitor.watch(started))[-1]["state"] == "SUCCESS"
    assert len(list(tmp_path.glob("drawn-*"))) == 1
    assert len(list(tmp_path.glob("paid-*"))) == 1
