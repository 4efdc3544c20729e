"""How the page stays up to date: one stream for all executions, shared by the tabs, and few of single ones."""

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import TypeVar

import httpx
from django.contrib.auth import get_user_model
from django.db import connection
from playwright.sync_api import BrowserContext, Locator, Page, Request, expect

from config.tests.waiting import wait_until
from main.models import Execution
from main.tests.browser import NewContext
from main.tests.page import GROWING, RUNNING_ON, STATE, expect_done, start, start_slow_words
from main.tests.platform import PATIENCE, Platform

OWN = "**/api/v1/stream*"
# What browsers open to a host over HTTP/1.1 is six; the page leaves two for all else.
MOST_STREAMS = 4

Found = TypeVar("Found")


class Streams:
    """The streams that the tabs of a browser open, and how many were open at once."""

    def __init__(self, context: BrowserContext) -> None:
        self.requests: list[Request] = []
        self.most = 0
        self._ended: set[Request] = set()
        context.on("request", self._opened)
        context.on("requestfinished", self._closed)
        context.on("requestfailed", self._closed)

    def own(self, page: Page) -> list[Request]:
        """Return the requests of a tab for the stream of all."""
        return [each for each in self.requests if "/api/v1/stream" in each.url and each.frame.page == page]

    @property
    def open(self) -> list[Request]:
        requests = [each for each in self.requests if each not in self._ended]
        return [each for each in requests if not each.frame.page.is_closed()]

    def _opened(self, request: Request) -> None:
        if request.resource_type == "eventsource":
            self.requests.append(request)
            self.most = max(self.most, len(self.open))

    def _closed(self, request: Request) -> None:
        self._ended.add(request)


def visit(page: Page, address: str) -> None:
    """Open the page, and wait until it has read what it may have missed before it listened."""
    page.goto("about:blank")  # what the page before it still reads is not meant
    with page.expect_response(re.compile("/executions/$")):
        page.goto(address)


def visit_with_a_past(platform: Platform, page: Page) -> None:
    """Open the overview as a visitor who has started something before."""
    page.goto(platform.url)
    start(page, "Figures")
    expect(page.locator(STATE)).to_have_text("Done", timeout=RUNNING_ON)
    visit(page, platform.url)


def elsewhere(page: Page) -> Callable[..., str]:
    """Return what starts a flow in the same session without the page, and returns the id."""
    cookies = {each["name"]: each["value"] for each in page.context.cookies()}
    headers = {"X-CSRFToken": cookies["csrftoken"]}
    address = re.sub("(?<=[0-9])/.*", "/start-task/", page.url)

    def begin(flow: str, **inputs: object) -> str:
        body = {"flow": flow, "inputs": inputs}
        answer = httpx.post(address, json=body, cookies=cookies, headers=headers, timeout=PATIENCE)
        task_id: str = answer.raise_for_status().json()["task_id"]
        return task_id

    return begin


def start_elsewhere(page: Page, flow: str, **inputs: object) -> str:
    return elsewhere(page)(flow, **inputs)


def card(page: Page, text: str) -> Locator:
    return page.locator(".card", has_text=text)


def expect_card(page: Page, text: str, state: str) -> None:
    expect(card(page, text).locator(".state")).to_have_text(state, timeout=RUNNING_ON)


def asked_for_the_list(page: Page) -> list[str]:
    """Return what becomes longer with each request for the list."""
    asked: list[str] = []
    page.on("request", lambda each: asked.append(each.url) if each.url.endswith("/executions/") else None)
    return asked


def in_thread(what: Callable[[], Found]) -> Found:
    """Ask the database in a thread: the browser's event loop runs in this one."""

    def ask() -> Found:
        with closing(connection):
            return what()

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(ask).result()


def test_what_is_started_elsewhere_appears_and_ends_without_asking(platform: Platform, page: Page) -> None:
    visit_with_a_past(platform, page)
    expect(page.get_by_role("heading", name="Nothing is running")).to_be_visible()
    asked = asked_for_the_list(page)
    start_elsewhere(page, "slow_words_flow", words=100)
    expect(card(page, "Slow words")).to_contain_text("word3")
    expect(page.locator(".rows .row-title").first).to_have_text("Slow words")
    expect_card(page, "Slow words", "Done")
    expect(page.locator(".rows .state").first).to_have_text("Done")
    assert asked == []


def test_many_that_are_started_elsewhere_are_read_at_once(platform: Platform, page: Page) -> None:
    visit_with_a_past(platform, page)
    with ThreadPoolExecutor(8) as pool:
        for _ in pool.map(elsewhere(page), ["figures_flow"] * 8):
            pass
    expect(page.locator(".rows li")).to_have_count(9, timeout=RUNNING_ON)
    expect(page.locator(".rows .state[data-phase=done]")).to_have_count(9, timeout=RUNNING_ON)


def test_what_is_not_looked_at_gets_on_in_the_list_and_ends(platform: Platform, page: Page) -> None:
    visit_with_a_past(platform, page)
    streams, asked = Streams(page.context), asked_for_the_list(page)
    page.get_by_role("link", name=re.compile("^Figures")).click()
    start_elsewhere(page, "slow_words_flow", words=100)
    row = page.locator(".rows li").first
    expect(row.locator(".row-facts")).to_have_text("Write …")
    expect(row.locator(".state")).to_have_text("Done", timeout=RUNNING_ON)
    assert streams.requests == []
    assert asked == []


def test_a_visitor_who_started_nothing_opens_no_stream(platform: Platform, page: Page) -> None:
    streams = Streams(page.context)
    page.goto(platform.url)
    page.wait_for_timeout(1500)  # the page's own pace is a second
    assert streams.requests == []
    with page.expect_request(OWN):
        start(page, "Figures")


def test_a_stream_is_opened_with_a_ticket_that_nobody_sees(platform: Platform, page: Page) -> None:
    page.goto(platform.url)
    streams = Streams(page.context)
    start_slow_words(page, words=100)
    expect(page.locator(GROWING)).to_contain_text("word3")
    (one,) = [each for each in streams.requests if "/task-status/" in each.url]
    assert "?ticket=" in one.url
    kept = page.evaluate("JSON.stringify([location.href, {...localStorage}, {...sessionStorage}])")
    assert "ticket" not in kept


def test_tabs_share_one_stream_and_the_next_takes_it_over(platform: Platform, page: Page) -> None:
    visit_with_a_past(platform, page)
    streams = Streams(page.context)
    other, third = page.context.new_page(), page.context.new_page()
    for each in (other, third):
        visit(each, platform.url)
    start_elsewhere(page, "slow_words_flow", words=200)
    for each in (page, other, third):
        expect_card(each, "Slow words", "Running")
    assert streams.own(other) == streams.own(third) == []
    with page.context.expect_event("request", lambda each: "/api/v1/stream" in each.url):
        page.close()
    start_elsewhere(other, "figures_flow")
    for each in (other, third):
        expect_card(each, "Figures", "Done")
        expect_card(each, "Slow words", "Done")
    assert len(streams.own(other) + streams.own(third)) == 1


def test_where_tabs_cannot_share_each_has_a_stream_of_its_own(platform: Platform, page: Page) -> None:
    page.context.add_init_script("delete Navigator.prototype.locks")  # as on http, away from localhost
    visit_with_a_past(platform, page)
    other = page.context.new_page()
    with other.expect_request(OWN):
        visit(other, platform.url)
    start_elsewhere(page, "figures_flow")
    for each in (page, other):
        expect_card(each, "Figures", "Done")


def test_a_tab_asks_by_itself_where_the_one_that_has_the_stream_hangs(platform: Platform, page: Page) -> None:
    visit_with_a_past(platform, page)
    other = page.context.new_page()
    visit(other, platform.url)
    start_elsewhere(page, "slow_words_flow", words=1000)
    expect_card(other, "Slow words", "Running")
    page.evaluate("BroadcastChannel.prototype.postMessage = () => {}")
    start_elsewhere(page, "figures_flow")
    expect(card(other, "Figures")).to_be_visible(timeout=2 * RUNNING_ON)


def test_five_executions_are_watched_in_two_tabs_by_four_streams(platform: Platform, page: Page) -> None:
    visit_with_a_past(platform, page)
    streams = Streams(page.context)
    visit(page, platform.url)
    ids = [start_elsewhere(page, "slow_words_flow", words=400) for _ in range(5)]
    expect(page.locator(".card")).to_have_count(5)
    expect(page.locator(".card .card-text", has_text="word")).to_have_count(3)
    expect(page.locator(".card .status", has_text="Write")).to_have_count(5)
    other = page.context.new_page()
    other.goto(f"{platform.url}/executions/{ids[0]}/")
    expect(other.locator(GROWING)).to_contain_text("word9", timeout=RUNNING_ON)
    assert len(streams.open) == streams.most == MOST_STREAMS
    page.close()
    expect_done(other)
    expect(other.locator(".rows .state[data-phase=done]")).to_have_count(6, timeout=2 * RUNNING_ON)
    assert len(streams.open) == 1


def test_a_restart_of_the_web_server_loses_nothing(platform: Platform, page: Page, tmp_path: Path) -> None:
    visit_with_a_past(platform, page)
    other = page.context.new_page()
    visit(other, platform.url)
    short = start_elsewhere(page, "slow_words_flow", words=100)
    start_elsewhere(page, "gate_flow", folder=str(tmp_path))
    for each in (page, other):
        expect(each.locator(".card .growing-end", has_text="word")).to_have_count(1)
        expect_card(each, "Gate", "Running")
    platform["web"].stop()
    wait_until(lambda: in_thread(Execution.objects.filter(id=short, state="SUCCESS").exists), PATIENCE)
    platform["web"].restart()
    for each in (page, other):
        expect_card(each, "Slow words", "Done")
        expect_card(each, "Gate", "Running")
    (tmp_path / "open").touch()
    start_elsewhere(page, "figures_flow")
    for each in (page, other):
        expect_card(each, "Gate", "Done")
        expect_card(each, "Figures", "Done")


def test_while_the_stream_is_refused_the_list_is_asked_for(platform: Platform, page: Page) -> None:
    page.route(OWN, lambda route: route.fulfill(status=503))
    visit_with_a_past(platform, page)
    start_elsewhere(page, "slow_words_flow", words=100)
    expect_card(page, "Slow words", "Running")
    expect_card(page, "Slow words", "Done")
    page.unroute(OWN)
    with page.expect_response(OWN, timeout=2 * RUNNING_ON):
        pass
    asked = asked_for_the_list(page)
    start_elsewhere(page, "figures_flow")
    expect_card(page, "Figures", "Done")
    assert len(asked) <= 1  # that of the opening


def test_signing_out_in_another_tab_ends_what_is_shown(platform: Platform, new_context: NewContext) -> None:
    email, password = "alice@example.com", "a-long-password"
    in_thread(lambda: get_user_model().objects.create_user(email, password))
    page = new_context().new_page()
    streams = Streams(page.context)
    page.goto(f"{platform.url}/sign-in/")
    page.get_by_label("E-mail address").fill(email)
    page.get_by_label("Password").fill(password)
    with page.expect_request(OWN):  # a user has it before the first start
        page.get_by_role("button", name="Sign in").click()
    home = page.context.new_page()
    visit(home, platform.url)
    start_slow_words(page, words=1000)
    expect(page.locator(GROWING)).to_contain_text("word3")
    expect_card(home, "Slow words", "Running")
    other = page.context.new_page()
    other.goto(f"{platform.url}/docs/readme/")
    other.get_by_role("button", name="Sign out").click()
    gone = page.locator(".connection", has_text="This execution is not there any more.")
    expect(gone).to_be_visible(timeout=RUNNING_ON)
    expect(home.locator(".card")).to_have_count(0, timeout=RUNNING_ON)
    page.wait_for_timeout(2000)
    assert streams.open == []
