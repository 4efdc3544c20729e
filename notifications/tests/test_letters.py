"""What people read."""

import re
from typing import Any

import pytest
from pytest_django import Settings

from accounts.models import User
from main.database import clock
from main.events import ErrorDetail
from main.models import Execution
from main.registry import load_flows
from main.tests.rows import claimed
from notifications.letters import MAX_RESULT, duration, letter, one_line
from notifications.models import Notification

pytestmark = pytest.mark.django_db

URL = "https://flows.example.com"


@pytest.fixture(autouse=True)
def flows(settings: Settings) -> None:
    load_flows(["main.flows"])
    settings.PUBLIC_URL = URL


def notification_of(owner: User, result: Any = None, error: ErrorDetail | None = None) -> Notification:
    execution = claimed(owner=owner, flow="poem_flow", notify=True)
    Execution.objects.filter(id=execution.id).update(started_at=clock())
    execution.finish(result=result, error=error)
    return Notification.objects.get(execution=execution)


def failed(type_: str, message: str, retryable: bool = False) -> ErrorDetail:
    return ErrorDetail(type=type_, message=message, retryable=retryable)


def test_a_success_has_flow_outcome_result_and_link(alice: User) -> None:
    notification = notification_of(alice, result="Rain on a tin roof")
    written = letter(notification)
    assert written.subject == "Poem: finished"
    assert re.search(r"^Poem: finished \(after \d\.\d s\)$", written.text, re.MULTILINE)
    for part in (written.text, written.html):
        assert re.search(r"after \d\.\d s", part)
        for text in ("Poem", "Rain on a tin roof", f"{URL}/executions/{notification.execution_id}/"):
            assert text in part
        assert "you asked to be told" in part
        assert f"{URL}/notifications/" in part
        assert written.unsubscribe in part


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (failed("quota", "The provider’s quota is used up.", retryable=True), "Trying again may help"),
        (failed("timeout", "The execution took longer than it may and was stopped."), "time limit"),
        (failed("memory", "The flow needed more than the 256 MB of memory."), "more memory"),
        (failed("flow", "There is no such city."), "Open it to see how far it came"),
    ],
)
def test_a_failure_has_its_sentence_and_what_to_do(alice: User, error: ErrorDetail, advice: str) -> None:
    written = letter(notification_of(alice, error=error))
    assert written.subject == "Poem: failed"
    for part in (written.text, written.html):
        assert error["message"] in part
        assert advice in part


def test_a_long_result_is_cut_and_the_link_leads_to_the_rest(alice: User) -> None:
    written = letter(notification_of(alice, result="word " * 5000))
    assert written.text.count("word") == MAX_RESULT // 5
    assert "The whole result is on the page" in written.text
    assert len(written.html) < 3 * MAX_RESULT


def test_a_result_that_is_no_text_is_shown_as_json(alice: User) -> None:
    assert '"città": [\n' in letter(notification_of(alice, result={"città": [1, 2]})).text


def test_a_long_title_leaves_room_for_the_outcome(alice: User, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Execution, "title", "Title " * 100)
    assert letter(notification_of(alice)).subject.endswith(": finished")


def test_html_is_text(alice: User) -> None:
    written = letter(notification_of(alice, result="<b>bold</b> & <script>alert(1)</script>"))
    assert "<b>bold</b> & <script>alert(1)</script>" in written.text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in written.html
    assert "<script" not in written.html


def test_it_is_written_in_the_language_of_who_reads_it(alice: User) -> None:
    alice.language = "es"
    alice.save()
    written = letter(notification_of(alice, result="Lluvia"))
    assert 'lang="es"' in written.html
    assert written.subject == "Poem: terminada"


def test_the_mail_is_the_same_one_in_every_try(alice: User, bob: User, settings: Settings) -> None:
    first, second, other = notification_of(alice), notification_of(alice), notification_of(bob)
    assert first.message_id == Notification.objects.get(id=first.id).message_id
    assert len({first.message_id, second.message_id, other.message_id}) == 3
    assert first.message_id.endswith("@flows.example.com>")


def digest_of(user: User, members: list[Notification]) -> Notification:
    digest = Notification.objects.create(user=user, channel="email", event="digest", reason="many")
    Notification.objects.filter(id__in=[each.id for each in members]).update(digest=digest, state="DIGESTED")
    return digest


def test_a_digest_counts_and_has_the_failed_ones_first(alice: User) -> None:
    members = [notification_of(alice, result="ok") for _ in range(25)]
    members.append(notification_of(alice, error=failed("flow", "There is no such city.")))
    written = letter(digest_of(alice, members))
    assert written.subject == "26 executions ended, 1 failed"
    assert "and 6 more" in written.text
    assert written.text.index("There is no such city.") < written.text.index("finished")
    assert written.html.count("/executions/") == 20
    assert written.unsubscribe in written.text


def test_a_digest_is_a_mail_of_its_own_and_the_same_one_in_every_try(alice: User) -> None:
    member = notification_of(alice)
    digest, other = digest_of(alice, [member]), digest_of(alice, [])
    assert digest.message_id == Notification.objects.get(id=digest.id).message_id
    assert len({digest.message_id, other.message_id, member.message_id}) == 3


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, ""),
        (2.04, "2.0 s"),
        (59.4, "59 s"),
        (61, "1 min 1 s"),
        (3599.6, "1 h 0 min"),
        (90_000, "25 h 0 min"),
    ],
)
def test_durations_are_said_as_people_do(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


def test_one_line_is_one_line() -> None:
    assert one_line(" a\r\nb\x00 \u2028c =?utf-8?q?d?= ") == "a b c = ?utf-8?q?d?="
