"""Who may see, watch and cancel which executions; what a list, a page, an answer and an entry hold."""

import random
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from django.conf import settings as project_settings
from django.contrib.auth import login
from django.contrib.sessions.backends.db import SessionStore
from django.http import HttpRequest, HttpResponse
from django.test import Client
from django.urls import reverse

from accounts.models import User
from config.tests.waiting import wait_until
from main.models import Execution
from main.tests.platform import Platform, Visitor
from main.tests.streams import Message, all_snapshots, messages_of, opened, snapshots, stored_snapshot

JSON = {"Accept": "application/json"}
HTML = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
PASSWORD = "correct horse battery"


@pytest.fixture(scope="module")
def people(platform: Platform) -> dict[str, User]:
    """Alice and Bob have accounts, Charlie is staff."""
    return {
        "Alice": User.objects.create_user("alice@example.com", PASSWORD),
        "Bob": User.objects.create_user("bob@example.com", PASSWORD),
        "Charlie": User.objects.create_superuser("charlie@example.com", PASSWORD),
    }


def sign_in(visitor: Visitor, user: User) -> None:
    """Sign in over the session that the visitor has, as every sign-in form does."""
    request = HttpRequest()
    request.session = SessionStore(visitor.cookies.get(project_settings.SESSION_COOKIE_NAME))
    login(request, user)
    request.session.save()
    if project_settings.SESSION_COOKIE_NAME in visitor.cookies:
        visitor.cookies.delete(project_settings.SESSION_COOKIE_NAME)
    visitor.cookies.set(project_settings.SESSION_COOKIE_NAME, str(request.session.session_key))


def own(visitor: Visitor) -> list[str]:
    """Return the ids of the list of executions."""
    return [each["id"] for each in visitor.get("/executions/").raise_for_status().json()["executions"]]


def cancel(visitor: Visitor, task_id: str) -> httpx.Response:
    return visitor.post(f"/api/v1/executions/{task_id}/cancel")


def opened_gate(folder: Path) -> str:
    (folder / "open").touch()
    return str(folder)


# What can be run


def test_flows_say_what_they_need(visitor: Visitor) -> None:
    said = visitor.get("/flows/").raise_for_status().json()
    flows = {flow["name"]: flow for flow in said["flows"]}
    assert [flow["title"] for flow in said["flows"]] == sorted(flow["title"] for flow in said["flows"])
    search = flows["web_search_flow"]
    assert search == {
        "name": "web_search_flow",
        "title": "Web search",
        "description": "Search the web and sum up what was found, with the sources.",
        "kind": "io",
        "public": True,
        "schema": search["schema"],
        "available": True,
        "reason": "",
    }
    assert search["schema"]["required"] == ["question"]
    question = search["schema"]["properties"]["question"]
    assert (question["type"], question["minLength"], question["maxLength"]) == ("string", 1, 1000)
    assert flows["members_flow"]["public"] is False


def test_a_flow_without_its_key_says_why_it_cannot_run(visitor: Visitor) -> None:
    flows = {flow["name"]: flow for flow in visitor.get("/flows/").json()["flows"]}
    assert flows["needs_key_flow"]["available"] is False
    assert "TAVILY_API_KEY" in flows["needs_key_flow"]["reason"]


def test_stand_ins_say_that_they_are(visitor: Visitor) -> None:
    said = visitor.get("/flows/").json()
    for stand_in, setting in (("chat_model", "GEMINI_API_KEY"), ("search", "TAVILY_API_KEY")):
        assert said[stand_in]["demo"] is True
        assert said[stand_in]["name"].startswith("Demo")
        assert setting in said[stand_in]["note"]


# The list


def test_the_list_has_the_own_executions_newest_first(platform: Platform, visitor: Visitor) -> None:
    with platform.visitor() as other:
        foreign = other.start("count_flow")
        assert own(visitor) == []
        started = [visitor.start("count_flow", to=number) for number in range(3)]
        assert own(visitor) == started[::-1]
        assert own(other) == [foreign]


def test_the_list_tells_each_in_a_few_words(visitor: Visitor) -> None:
    task_id = visitor.start("slow_words_flow", words=2)
    all_snapshots(visitor, task_id)
    [entry] = visitor.get("/executions").raise_for_status().json()["executions"]
    assert entry == {
        "id": task_id,
        "flow": "slow_words_flow",
        "title": "Slow words",
        "inputs": {"words": 2},
        "state": "SUCCESS",
        "priority": "normal",
        "origin": None,
        "status": entry["status"],
        "progress": 100,
        "created_at": entry["created_at"],
        "started_at": entry["started_at"],
        "finished_at": entry["finished_at"],
        "duration": entry["duration"],
        "error": None,
    }
    assert entry["created_at"] <= entry["started_at"] <= entry["finished_at"]
    assert entry["duration"] > 0


# One execution


def test_an_execution_is_a_page_or_json_as_asked(visitor: Visitor) -> None:
    task_id = visitor.start("count_flow", to=5)
    last = all_snapshots(visitor, task_id)[-1].details
    page = visitor.get(f"/executions/{task_id}/", headers=HTML).raise_for_status()
    assert page.headers["content-type"].startswith("text/html")
    assert task_id in page.text
    told = visitor.get(f"/executions/{task_id}/", headers=JSON).raise_for_status()
    assert told.headers["content-type"] == "application/json"
    assert "Accept" in told.headers["vary"]
    assert told.json()["details"] == last
    assert (told.json()["state"], told.json()["attempt"]) == ("SUCCESS", 1)


def test_json_of_a_running_execution_is_what_watchers_see(visitor: Visitor, tmp_path: Path) -> None:
    task_id = visitor.start("gate_flow", folder=str(tmp_path))
    wait_until(lambda: "partial_result" in visitor.details(task_id)["details"])  # Redis knows all of it
    with opened(visitor, task_id) as stream:
        shown = next(each for each in snapshots(stream) if each.details.get("partial_result"))
        assert visitor.details(task_id)["details"] == shown.details
        assert visitor.details(task_id)["progress"] == 33
        opened_gate(tmp_path)


def test_what_failed_keeps_the_progress_that_it_had_made(visitor: Visitor, tmp_path: Path) -> None:
    task_id = visitor.start("order_flow", folder=str(tmp_path))  # fails in the third of its steps
    assert all_snapshots(visitor, task_id)[-1].details["progress"] == 66
    told = visitor.details(task_id)
    assert (told["state"], told["progress"], told["details"]["progress"]) == ("FAILURE", 66, 66)


def test_an_answer_is_safe_html(visitor: Visitor) -> None:
    task_id = visitor.start("markup_flow")
    all_snapshots(visitor, task_id)
    response = visitor.get(f"/executions/{task_id}/answer/").raise_for_status()
    assert response.headers["content-type"].startswith("text/html")
    assert "&lt;img" in response.text
    for danger in ("<img", "<script", 'href="javascript'):
        assert danger not in response.text


def test_an_answer_that_is_no_text_or_not_there_yet_is_a_404(visitor: Visitor, tmp_path: Path) -> None:
    figures = visitor.start("figures_flow")
    all_snapshots(visitor, figures)
    assert visitor.get(f"/executions/{figures}/answer/", headers=JSON).status_code == 404
    waiting = visitor.start("gate_flow", folder=str(tmp_path))
    assert visitor.get(f"/executions/{waiting}/answer/", headers=JSON).status_code == 404
    opened_gate(tmp_path)


def test_an_entry_can_be_read_by_its_step_and_number(visitor: Visitor, tmp_path: Path) -> None:
    task_id = visitor.start("gate_flow", folder=opened_gate(tmp_path))
    all_snapshots(visitor, task_id)
    address = f"/api/v1/executions/{task_id}/entry"
    assert visitor.get(address, params={"step": "", "n": "1"}).raise_for_status().json() == {
        "type": "tool_result",
        "step_name": "lookup",
        "tool": "lookup",
        "data": [{"url": "https://example.com/", "content": "first-1"}],
    }
    assert visitor.get(address, params={"step": "Wait", "n": "1"}).json()["message"] == "Waiting for the gate"


@pytest.mark.parametrize(
    ("step", "number"),
    [
        ("", "7"),
        ("", "-1"),
        ("", ""),
        ("", "one"),
        ("", "9" * 30),
        ("", "9" * 5000),
        ("", "²"),
        ("Nowhere", "0"),
        ("\x00", "0"),
    ],
)
def test_an_entry_that_is_not_there_is_a_404(visitor: Visitor, step: str, number: str) -> None:
    task_id = visitor.start("count_flow")
    response = visitor.get(f"/api/v1/executions/{task_id}/entry", params={"step": step, "n": number})
    assert response.status_code == 404
    assert response.json()["error"] == "There is no such entry."


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("POST", "/flows/", "GET"),
        ("DELETE", "/executions/", "GET"),
        ("POST", "/executions/{}/", "GET"),
        ("POST", "/executions/{}/answer/", "GET"),
        ("POST", "/api/v1/executions/{}/entry", "GET"),
        ("GET", "/api/v1/executions/{}/cancel", "POST"),
    ],
)
def test_another_method_is_refused_with_the_allowed_ones(
    visitor: Visitor, method: str, path: str, allowed: str
) -> None:
    task_id = visitor.start("count_flow")
    response = visitor.request(method, path.format(task_id))
    assert response.status_code == 405
    assert allowed in response.headers["allow"].split(", ")


# Cancelling


def test_a_cancelled_run_is_one_failure_message_and_its_worker_stops(
    visitor: Visitor, tmp_path: Path
) -> None:
    task_id = visitor.start("ticking_flow", folder=str(tmp_path))
    with opened(visitor, task_id) as stream:
        shown = snapshots(stream)
        next(each for each in shown if each.details.get("partial_result"))
        response = cancel(visitor, task_id)
        assert (response.status_code, response.json()["state"]) == (200, "FAILURE")
        rest = list(shown)
    expect_cancelled(rest)
    wait_until((tmp_path / "stopped").exists)
    assert Execution.objects.get(id=task_id).state == "CANCELLED"


def expect_cancelled(seen: list[Message]) -> None:
    failures = [each for each in seen if each.snapshot["state"] == "FAILURE"]
    assert failures == seen[-1:]
    assert failures[0].details["error"] == {
        "type": "cancelled",
        "message": "The execution was cancelled.",
        "retryable": False,
    }
    assert failures[0].details["status"] == "The execution was cancelled."


def test_a_run_that_is_silent_stops_too(visitor: Visitor, tmp_path: Path) -> None:
    task_id = visitor.start("gate_flow", folder=str(tmp_path))
    wait_until((tmp_path / "wait-1").exists)
    cancel(visitor, task_id).raise_for_status()
    expect_cancelled(all_snapshots(visitor, task_id))


def test_what_was_seen_of_a_cancelled_run_stays(visitor: Visitor, tmp_path: Path) -> None:
    task_id = visitor.start("gate_flow", folder=str(tmp_path))
    with opened(visitor, task_id) as stream:
        shown = snapshots(stream)
        next(each for each in shown if each.details.get("partial_result"))
        cancel(visitor, task_id).raise_for_status()
        live = list(shown)[-1].snapshot
    assert messages_of(live) == ["Begun", "▶ First", "▶ Wait", "Waiting for the gate"]
    assert [step["state"] for step in live["details"]["steps"]] == ["done", "failed"]
    assert all_snapshots(visitor, task_id)[-1].snapshot == live == stored_snapshot(task_id)


def test_what_waits_is_cancelled_and_never_runs(platform: Platform, visitor: Visitor, tmp_path: Path) -> None:
    with platform["worker-io"].paused():
        task_id = visitor.start("gate_flow", folder=opened_gate(tmp_path))
        with opened(visitor, task_id) as stream:
            shown = snapshots(stream)
            assert next(shown).snapshot["state"] == "PENDING"
            cancel(visitor, task_id).raise_for_status()
            expect_cancelled(list(shown))
    visitor.run("count_flow")  # the worker has been through the queue
    assert not (tmp_path / "first-1").exists()
    assert Execution.objects.get(id=task_id).attempt == 0


def test_what_has_ended_cannot_be_cancelled(visitor: Visitor, tmp_path: Path) -> None:
    task_id = visitor.start("gate_flow", folder=opened_gate(tmp_path))
    all_snapshots(visitor, task_id)
    before = all_snapshots(visitor, task_id)[-1].snapshot  # as it is stored
    response = cancel(visitor, task_id)
    assert response.status_code == 409
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["error"] == "The execution has ended already."
    assert all_snapshots(visitor, task_id)[-1].snapshot == before


def test_cancelling_needs_the_csrf_token(visitor: Visitor, tmp_path: Path) -> None:
    task_id = visitor.start("gate_flow", folder=str(tmp_path))
    response = visitor.post(f"/api/v1/executions/{task_id}/cancel", headers={"X-CSRFToken": ""})
    assert response.status_code == 403
    opened_gate(tmp_path)
    assert all_snapshots(visitor, task_id)[-1].snapshot["state"] == "SUCCESS"


# Whose it is

ROLES = ("visitor", "another visitor", "Alice", "Bob", "Charlie")
MAY = {"visitor": {"visitor", "Charlie"}, "Alice": {"Alice", "Charlie"}}
REQUESTS: dict[str, tuple[str, str, dict[str, str], int]] = {
    "watch": ("GET", "/task-status/{}/", {}, 200),
    "ask whether it ended": ("HEAD", "/task-status/{}/", {}, 200),
    "read": ("GET", "/executions/{}/", JSON, 200),
    "open the page": ("GET", "/executions/{}/", HTML, 200),
    "read the answer": ("GET", "/executions/{}/answer/", {}, 200),
    "read an entry": ("GET", "/api/v1/executions/{}/entry?step=&n=1", {}, 200),
    "cancel": ("POST", "/api/v1/executions/{}/cancel", {}, 409),
}


@pytest.fixture(scope="module")
def sessions(platform: Platform, people: dict[str, User]) -> Iterator[dict[str, Visitor]]:
    """An open session of everybody."""
    opened_sessions = {role: platform.visitor() for role in ROLES}
    for role, session in opened_sessions.items():
        session.__enter__()
        if role in people:
            sign_in(session, people[role])
    yield opened_sessions
    for session in opened_sessions.values():
        session.close()


@pytest.fixture(scope="module")
def ended(sessions: dict[str, Visitor], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A finished execution of the visitor and one of Alice."""
    folder = opened_gate(tmp_path_factory.mktemp("gate"))
    started = {owner: sessions[owner].start("gate_flow", folder=folder) for owner in MAY}
    for owner, task_id in started.items():
        assert all_snapshots(sessions[owner], task_id)[-1].snapshot["state"] == "SUCCESS"
    return started


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("what", REQUESTS)
@pytest.mark.parametrize("owner", MAY)
def test_what_is_not_yours_is_not_there(
    sessions: dict[str, Visitor], ended: dict[str, str], owner: str, what: str, role: str
) -> None:
    method, path, headers, found = REQUESTS[what]
    response = sessions[role].request(method, path.format(ended[owner]), headers=headers)
    assert response.status_code == (found if role in MAY[owner] else 404)


@pytest.mark.parametrize("role", ["visitor", "Charlie"])
def test_the_owner_and_staff_may_cancel(sessions: dict[str, Visitor], tmp_path: Path, role: str) -> None:
    task_id = sessions["visitor"].start("gate_flow", folder=str(tmp_path))
    for stranger in ("another visitor", "Alice", "Bob"):
        assert cancel(sessions[stranger], task_id).status_code == 404
    assert cancel(sessions[role], task_id).status_code == 200


def test_staff_see_all_but_list_their_own(sessions: dict[str, Visitor], ended: dict[str, str]) -> None:
    mine = sessions["Charlie"].start("count_flow")
    assert own(sessions["Charlie"]) == [mine]


def test_whoever_signs_in_keeps_what_the_session_started(
    platform: Platform, people: dict[str, User], visitor: Visitor
) -> None:
    before = visitor.start("count_flow")
    sign_in(visitor, people["Bob"])
    after = visitor.start("members_flow")
    assert own(visitor)[:2] == [after, before]
    assert visitor.get(f"/task-status/{before}/").status_code == 200
    with platform.visitor() as elsewhere:
        sign_in(elsewhere, people["Bob"])
        assert after in own(elsewhere)
        assert before not in own(elsewhere)  # it is the session's


def test_a_signed_in_user_runs_what_visitors_may_not(people: dict[str, User], visitor: Visitor) -> None:
    sign_in(visitor, people["Alice"])
    task_id = visitor.start("members_flow")
    assert all_snapshots(visitor, task_id)[-1].details["final_result"] == "inside"
    execution = Execution.objects.get(id=task_id)
    assert (execution.owner, execution.visitor) == (people["Alice"], None)


def test_someone_who_was_switched_off_is_a_visitor(visitor: Visitor) -> None:
    user = User.objects.create_user("dave@example.com", PASSWORD)
    sign_in(visitor, user)
    visitor.start("members_flow")
    User.objects.filter(pk=user.pk).update(is_active=False)
    assert visitor.post("/start-task/", json={"flow": "members_flow"}).status_code == 403
    assert own(visitor) == []


def test_the_sign_in_form_of_the_admin_keeps_the_session_too(
    people: dict[str, User], visitor: Visitor
) -> None:
    before = visitor.start("count_flow")
    form = {"username": people["Charlie"].email, "password": PASSWORD, "next": "/"}
    token = visitor.get("/admin/login/").cookies.get("csrftoken") or visitor.cookies["csrftoken"]
    response = visitor.post("/admin/login/", data={**form, "csrfmiddlewaretoken": token})
    assert response.status_code == 302, response.text
    visitor.headers["X-CSRFToken"] = visitor.cookies["csrftoken"]
    after = visitor.start("members_flow")
    assert own(visitor)[0] == after
    assert before in own(visitor)


# Cookies and addresses


def test_the_page_sets_a_csrf_cookie_that_scripts_can_read(platform: Platform) -> None:
    response = httpx.get(platform.url)
    [cookie] = [each for each in response.headers.get_list("set-cookie") if each.startswith("csrftoken=")]
    assert "httponly" not in cookie.lower()
    assert "samesite=lax" in cookie.lower()


def test_only_looking_makes_no_session(platform: Platform) -> None:
    with platform.visitor() as visitor:
        visitor.get("/flows/")
        visitor.get("/executions/")
        assert set(visitor.cookies) == {"csrftoken"}
        visitor.start("count_flow")
        assert set(visitor.cookies) == {"csrftoken", project_settings.SESSION_COOKIE_NAME}


def test_the_documented_names_lead_to_the_documented_paths() -> None:
    task_id = uuid.uuid4()
    assert reverse("home") == "/"
    assert reverse("start_task") == "/start-task/"
    assert reverse("task_status", args=[task_id]) == f"/task-status/{task_id}/"


# How many starts


@pytest.fixture
def starts(platform: Platform, settings: Any) -> Callable[..., Any]:
    """Start a flow in this process, where a visitor may do so three times a minute; all in one such minute."""
    settings.ANONYMOUS_STARTS_PER_MINUTE = 3
    settings.PROXIES = 1
    wait_until(lambda: time.time() % 60 < 55)

    def start(client: Client, address: str) -> Any:
        return client.post(
            "/start-task/",
            {"flow": "count_flow"},
            content_type="application/json",
            headers={"X-Forwarded-For": address},
        )

    return start


def some_address() -> str:
    return f"2001:db8::{random.getrandbits(32):x}"


def expect_refused(response: HttpResponse) -> None:
    assert response.status_code == 429
    assert response["Content-Type"] == "application/problem+json"
    assert 1 <= int(response["Retry-After"]) <= 60
    assert "more than 3 starts in a minute" in response.content.decode()


def test_an_address_starts_so_many_a_minute(starts: Callable[..., Any]) -> None:
    address = some_address()
    assert [starts(Client(), address).status_code for _ in range(3)] == [200] * 3
    stored = Execution.objects.count()
    expect_refused(starts(Client(), address))
    assert Execution.objects.count() == stored
    assert starts(Client(), some_address()).status_code == 200


def test_a_session_starts_so_many_a_minute_from_any_address(starts: Callable[..., Any]) -> None:
    client = Client()
    starts(client, some_address())  # has the session made
    assert [starts(client, some_address()).status_code for _ in range(3)] == [200] * 3
    expect_refused(starts(client, some_address()))


def test_what_a_client_forges_before_the_proxy_does_not_count(starts: Callable[..., Any]) -> None:
    address = some_address()
    for _ in range(3):
        starts(Client(), f"{some_address()}, {address}")
    expect_refused(starts(Client(), f"{some_address()}, {address}"))


def test_who_signed_in_is_not_limited(starts: Callable[..., Any], people: dict[str, User]) -> None:
    client, address = Client(), some_address()
    client.force_login(people["Alice"])
    assert [starts(client, address).status_code for _ in range(5)] == [200] * 5


def test_inputs_are_listed_as_the_flow_declares_them(visitor: Visitor) -> None:
    """PostgreSQL would have the shorter name first."""
    inputs = {"ratio": 0.5, "name": "Ada", "text": "some text"}
    task_id = visitor.start("every_field_flow", **inputs)
    shown = next(each for each in visitor.get("/executions/").json()["executions"] if each["id"] == task_id)
    assert list(shown["inputs"])[:4] == ["name", "text", "ratio", "count"]
