"""Streams as clients see them that are not ours: whole, in order, and nothing twice, also over a deploy."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import orjson
import pytest
from playwright.sync_api import Page

from config.tests.waiting import wait_until
from main.tests import foreign_clients
from main.tests.browser import NewContext
from main.tests.foreign_clients import Client, Said
from main.tests.platform import PATIENCE, Platform, Visitor

CLIENTS: dict[str, Client] = {
    "npm eventsource": foreign_clients.npm_eventsource,
    "httpx-sse": foreign_clients.httpx_sse,
    "sseclient-py": foreign_clients.sseclient_py,
    "curl -N": foreign_clients.curl,
}


class Door(NamedTuple):
    """An address that streams an execution, and what is expected of it: every word once, in order."""

    path: str
    expect: Callable[[list[Said], str], None]


def expect_snapshots(seen: list[Said], text: str) -> None:
    """Each message is whole: it has all words up to one, and never fewer than the one before."""
    assert {said.event for said in seen} == {"message"}
    assert [said.id for said in seen] == [""] * (len(seen) - 1) + ["end"]
    details = [orjson.loads(said.data)["details"] for said in seen]
    texts = [each[name] for each in details for name in ("partial_result", "final_result") if name in each]
    assert texts == [text[: len(each)] for each in texts]
    assert texts == sorted(texts, key=len)
    assert texts[-1] == text
    assert orjson.loads(seen[-1].data)["state"] == "SUCCESS"


def expect_events(seen: list[Said], text: str) -> None:
    """Each event is told once and in order, whatever its type, and nothing had to be told anew."""
    assert [said.id for said in seen] == [f"1-{number}" for number in range(1, len(seen))] + ["end"]
    assert {"state", "step", "log", "token", "progress", "result"} == {said.event for said in seen}
    assert "".join(orjson.loads(said.data)["text"] for said in seen if said.event == "token") == text
    assert (seen[-1].event, orjson.loads(seen[-1].data)["final_result"]) == ("result", text)


def expect_words_and_end(seen: list[Said], text: str) -> None:
    """Of the events only those come that were asked for."""
    assert [said.event for said in seen] == ["token"] * (len(seen) - 1) + ["result"]
    assert len({said.id for said in seen}) == len(seen)
    assert "".join(orjson.loads(said.data)["text"] for said in seen[:-1]) == text
    assert (seen[-1].id, orjson.loads(seen[-1].data)["final_result"]) == ("end", text)


DOORS = {
    "snapshots": Door("/task-status/{}/", expect_snapshots),
    "events": Door("/api/v1/executions/{}/events", expect_events),
    "some events": Door("/api/v1/executions/{}/events?types=token,result", expect_words_and_end),
}


# To the end


def watch(client: Client, visitor: Visitor, door: Door) -> None:
    task_id = visitor.start("slow_words_flow", words=20)
    seen: list[Said] = []
    for said in client(visitor, door.path.format(task_id)):
        seen.append(said)
        if said.id == "end":
            break
    door.expect(seen, "".join(f"**word{number}** " for number in range(20)))


@pytest.mark.parametrize("door", DOORS.values(), ids=DOORS)
@pytest.mark.parametrize("client", CLIENTS.values(), ids=CLIENTS)
def test_a_run_is_watched_to_its_end(visitor: Visitor, client: Client, door: Door) -> None:
    watch(client, visitor, door)


@pytest.mark.parametrize("door", DOORS.values(), ids=DOORS)
def test_a_run_is_watched_to_its_end_by_chromium(visitor: Visitor, page: Page, door: Door) -> None:
    watch(foreign_clients.chromium(page), visitor, door)


# Over a deploy: a third of the words is seen before, a third is written meanwhile, and a third is seen live again


THIRTY_WORDS = "".join(f"word{number} " for number in range(30))


class Watching:
    """A client that watches in a thread until it is told not to come back."""

    def __init__(self, client: Client, visitor: Visitor, path: str, pool: ThreadPoolExecutor) -> None:
        self.seen: list[Said] = []
        self.end = pool.submit(self._watch, client(visitor, path))

    def _watch(self, messages: Iterator[Said]) -> None:
        for said in messages:
            self.seen.append(said)

    def has_seen(self, word: str) -> bool:
        """Whether it has, or never will."""
        return self.end.done() or any(word in said.data for said in self.seen)


@pytest.fixture(scope="module")
def interrupted(
    platform: Platform, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[tuple[str, str], Watching]]:
    """A run that all clients watch at all doors, while the web server is stopped and started."""
    folder = tmp_path_factory.mktemp("gates")
    with platform.visitor() as visitor, ThreadPoolExecutor(len(DOORS) * len(CLIENTS)) as pool:
        task_id = visitor.start("thirds_flow", folder=str(folder))
        watching = {
            (door, client): Watching(watch, visitor, path.format(task_id), pool)
            for door, (path, _) in DOORS.items()
            for client, watch in CLIENTS.items()
        }
        try:
            wait_until(lambda: all(each.has_seen("word9 ") for each in watching.values()), PATIENCE)
            deploy(platform, folder)
            wait_until(lambda: all(each.has_seen("word19 ") for each in watching.values()), PATIENCE)
        finally:
            (folder / "1").touch()
            (folder / "2").touch()
        yield watching


def deploy(platform: Platform, folder: Path) -> None:
    """Stop the web server, have words written while nobody can watch, and start it again."""
    platform["web"].stop()
    (folder / "1").touch()
    wait_until((folder / "written-1").exists)
    platform["web"].restart()
    wait_until(platform.answers, PATIENCE)


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("client", CLIENTS)
def test_who_comes_back_after_a_deploy_misses_nothing_and_sees_nothing_twice(
    interrupted: dict[tuple[str, str], Watching], client: str, door: str
) -> None:
    watching = interrupted[door, client]
    watching.end.result(PATIENCE)
    DOORS[door].expect(watching.seen, THIRTY_WORDS)


def test_chromium_comes_back_after_a_deploy_misses_nothing_and_sees_nothing_twice(
    platform: Platform, visitor: Visitor, new_context: NewContext, tmp_path: Path
) -> None:
    """In a tab for each door."""
    task_id = visitor.start("thirds_flow", folder=str(tmp_path))
    tabs = new_context()
    watching = [
        (door, foreign_clients.chromium(tabs.new_page())(visitor, door.path.format(task_id)), list[Said]())
        for door in DOORS.values()
    ]
    for _, messages, seen in watching:
        seen += up_to("word9 ", messages)
    deploy(platform, tmp_path)
    for _, messages, seen in watching:
        seen += up_to("word19 ", messages)
    (tmp_path / "2").touch()
    for door, messages, seen in watching:
        door.expect([*seen, *messages], THIRTY_WORDS)


def up_to(word: str, messages: Iterator[Said]) -> Iterator[Said]:
    """Take messages until one has the word in it."""
    for said in messages:
        yield said
        if word in said.data:
            return


# Without headers


def test_who_cannot_send_headers_says_in_the_address_what_was_seen(visitor: Visitor) -> None:
    path = DOORS["events"].path.format(visitor.start("count_flow"))
    everything = list(foreign_clients.httpx_sse(visitor, path))
    missed = foreign_clients.curl(visitor, f"{path}?last_event_id={everything[2].id}")
    assert list(missed) == [said._replace(retry=None) for said in everything[3:]]
