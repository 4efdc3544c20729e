"""The notifications worker as it runs: a process of its own, which may hang, die or be stopped."""

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from accounts.models import User
from config.tests.waiting import wait_until
from main.channel import redis_client
from main.models import Execution
from main.tests.people import alice, sign_in
from main.tests.platform import Platform, Visitor
from notifications import mail_folder
from notifications.models import Notification

__all__ = ["alice"]

WORKER = "worker-notifications"


@contextmanager
def mail_server_that_hangs(platform: Platform) -> Iterator[Callable[[], object]]:
    """Have the platform's worker send to a server that accepts connections and says nothing.

    Gives a function that waits for a connection.
    """
    worker = platform[WORKER]
    with socket.create_server(("127.0.0.1", 0)) as listener, ExitStack() as connections:
        worker.stop()
        worker.environment["EMAIL_URL"] = f"smtp://127.0.0.1:{listener.getsockname()[1]}"
        worker.restart()
        try:
            yield lambda: connections.enter_context(listener.accept()[0])
        finally:
            del worker.environment["EMAIL_URL"]
            worker.restart()


def run_and_ask(visitor: Visitor) -> Notification:
    response = visitor.post("/start-task/", json={"flow": "count_flow", "inputs": {}, "notify": True})
    task_id = response.raise_for_status().json()["task_id"]
    wait_until(lambda: Execution.objects.get(id=task_id).state == "SUCCESS")
    return Notification.objects.get(execution=task_id)


def is_sent(notification: Notification) -> bool:
    notification.refresh_from_db()
    return notification.state == "SENT"


def arrived(notification: Notification) -> list[mail_folder.Mail]:
    """Return its mails; the platform has another address than this process, and ids have that in them."""
    own = notification.message_id.partition("@")[0]
    return [mail for mail in mail_folder.newest() if mail.message["Message-ID"].strip().startswith(own)]


def test_a_mail_arrives_when_it_is_done(visitor: Visitor, alice: User) -> None:
    sign_in(visitor, alice)
    notification = run_and_ask(visitor)
    wait_until(lambda: is_sent(notification))
    (mail,) = arrived(notification)
    assert mail.message["To"] == alice.email
    assert f"/executions/{notification.execution_id}/" in mail.text


def test_a_hanging_mail_server_delays_nothing_and_a_killed_worker_loses_no_mail(
    platform: Platform, visitor: Visitor, alice: User
) -> None:
    sign_in(visitor, alice)
    with mail_server_that_hangs(platform) as wait_for_connection:
        notification = run_and_ask(visitor)
        wait_for_connection()  # the worker has claimed it, and waits for a greeting
        for _ in range(8):  # more than there are places to send
            run_and_ask(visitor)
        assert not is_sent(notification)
        platform[WORKER].kill()
    wait_until(lambda: is_sent(notification), 30)
    assert [each.outcome for each in notification.deliveries.all()] == ["unknown", "sent"]
    assert len(arrived(notification)) == 1
    wait_until(lambda: not Notification.objects.filter(state__in=("PENDING", "SENDING")).exists(), 30)


def test_a_stopped_worker_hands_back_what_hangs(platform: Platform, visitor: Visitor, alice: User) -> None:
    sign_in(visitor, alice)
    with mail_server_that_hangs(platform) as wait_for_connection:
        notification = run_and_ask(visitor)
        wait_for_connection()
        platform[WORKER].stop(seconds=5)
        notification.refresh_from_db()
        assert (notification.state, notification.worker) == ("PENDING", "")
    wait_until(lambda: is_sent(notification), 20)


def test_bells_that_redis_forgot_are_not_missed(platform: Platform, visitor: Visitor, alice: User) -> None:
    sign_in(visitor, alice)
    with platform[WORKER].paused():
        notification = run_and_ask(visitor)
        redis_client().flushall()
    wait_until(lambda: is_sent(notification))
