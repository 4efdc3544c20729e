"""The page, in a real browser, against real web and worker processes."""

import json
import re
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from django.db import connection
from playwright.sync_api import Page, Route, expect

from main.models import Execution
from main.tests.browser import NewContext
from main.tests.page import (
    ANSWER,
    EXECUTION,
    GROWING,
    RUNNING_ON,
    STATE,
    TITLE,
    choose,
    expect_done,
    field,
    start,
    start_slow_words,
)
from main.tests.platform import Platform

# Watching


def test_a_flow_is_chosen_started_and_watched_to_its_answer(platform: Platform, page: Page) -> None:
    page.goto(platform.url)
    expect(page.get_by_role("heading", name="Nothing is running")).to_be_visible()
    start(page, "Poem")
    expect(page).to_have_url(EXECUTION)
    expect(page.locator(TITLE)).to_have_text("Poem")
    expect_done(page)
    expect(page.locator(".step-title")).to_have_text(
        [re.compile("Choose a theme"), re.compile("Write the poem")]
    )
    expect(page).to_have_title("Done · Poem · API-CTM")
    expect(page.get_by_role("status")).to_contain_text("Poem is done.")
    row = page.locator(".rows li").first
    expect(row).to_contain_text("Poem")
    expect(row).to_contain_text(re.compile(r"just now · [\d.]+s"))


def test_what_a_tool_found_is_a_list_of_links(platform: Platform, page: Page) -> None:
    page.goto(platform.url)
    start(page, "Long")
    link = page.locator(".sources a")
    expect(link).to_have_attribute("href", re.compile("^https://example.com/path/"))
    expect(link).to_have_attribute("rel", re.compile("noopener"))
    expect(page.get_by_role("button", name="Show 196 earlier entries")).to_be_visible()
    page.get_by_role("button", name="Show 196 earlier entries").click()
    expect(page.get_by_text("Read page 1 of 200")).to_be_visible()


def test_an_answer_grows_and_a_reload_in_the_middle_loses_nothing(platform: Platform, page: Page) -> None:
    page.goto(platform.url)
    start_slow_words(page, words=100)
    expect(page.locator(GROWING)).to_contain_text("word9")
    expect(page.get_by_role("progressbar", name="Progress")).to_have_attribute(
        "aria-valuetext", re.compile("Write")
    )
    page.reload()
    expect(page.locator(GROWING)).to_contain_text("word0 word1 word2")
    expect(page.locator(STATE)).to_have_text("Running")
    expect_done(page)
    expect(page.locator(ANSWER).locator("strong")).to_have_count(100)


def test_a_second_tab_watches_the_same_execution(platform: Platform, page: Page) -> None:
    page.goto(platform.url)
    start_slow_words(page, words=100)
    expect(page.locator(GROWING)).to_contain_text("word3")
    other = page.context.new_page()
    other.goto(page.url)
    expect(other.locator(GROWING)).to_contain_text("word0 word1")
    home = page.context.new_page()
    home.goto(platform.url)
    expect(home.get_by_role("heading", name="Running now")).to_be_visible()
    expect(home.locator(".card")).to_contain_text("word")
    for each in (page, other):
        expect_done(each)
    expect(home.locator(".card .state")).to_have_text("Done")


def test_one_tab_hears_what_another_starts(platform: Platform, page: Page) -> None:
    page.goto(platform.url)
    other = page.context.new_page()
    other.goto(platform.url)
    start(other, "Figures")
    expect(page.locator(".rows .row-title")).to_have_text("Figures")


def test_more_executions_than_connections_are_watched_at_once(platform: Platform, page: Page) -> None:
    page.goto(platform.url)
    for number in range(1, 8):
        start_slow_words(page, words=300)
        expect(page.locator(".rows li")).to_have_count(number)
    page.get_by_role("link", name="API-CTM").click()
    expect(page.locator(".card")).to_have_count(7)
    other = page.context.new_page()
    other.goto(platform.url)  # finds a connection that is free
    expect(other.locator(".card")).to_have_count(7)
    streams = page.evaluate("navigator.locks.query().then(({ held }) => held.length)")
    assert 0 < streams <= 4
    expect(page.locator(".card .state[data-phase=done]")).to_have_count(7, timeout=2 * RUNNING_ON)


def test_back_and_forward_lead_through_executions(platform: Platform, page: Page) -> None:
    page.goto(platform.url)
    start_slow_words(page, words=5)
    expect_done(page)
    start(page, "Figures")
    expect(page.locator(TITLE)).to_have_text("Figures")
    page.go_back()
    expect(page.locator(TITLE)).to_have_text("Slow words")
    page.go_back()
    expect(page.locator(".overview")).to_be_visible()
    page.go_forward()
    expect(page.locator(TITLE)).to_have_text("Slow words")
    expect_done(page)


def test_a_past_execution_opens_from_the_list_while_another_runs(platform: Platform, page: Page) -> None:
    page.goto(platform.url)
    start(page, "Figures")
    expect(page.locator(STATE)).to_have_text("Done", timeout=RUNNING_ON)
    start_slow_words(page, words=100)
    page.get_by_role("link", name=re.compile("^Figures")).click()
    expect(page.locator(TITLE)).to_be_focused()
    expect(page.locator(".answer pre")).to_contain_text('"sum": 42')
    expect(page.locator(".rows .state").first).to_have_text("Running")
    expect(page.locator(".rows .state").first).to_have_text("Done", timeout=RUNNING_ON)
    expect(page.locator(TITLE)).to_have_text("Figures")


def test_a_refused_stream_is_said_and_opened_again(platform: Platform, page: Page) -> None:
    page.goto(platform.url)
    page.route("**/task-status/**", lambda route: route.fulfill(status=503))
    start_slow_words(page, words=150)
    expect(page.locator(".connection")).to_contain_text("The connection was lost.")
    page.unroute("**/task-status/**")
    expect(page.locator(GROWING)).to_contain_text("word", timeout=RUNNING_ON)
    expect(page.locator(".connection")).to_be_hidden()
    expect_done(page)


def test_what_could_not_be_reached_is_forgotten_once_it_answers(platform: Platform, page: Page) -> None:
    page.goto(platform.url)
    start_slow_words(page, words=1000)
    expect(page.locator(GROWING)).to_contain_text("word3")
    page.route("**/*", lambda route: route.abort())
    page.get_by_role("button", name="Cancel").click()
    messages = page.get_by_role("alert").filter(has_text="The server cannot be reached")
    expect(messages).to_have_count(1)
    page.unroute("**/*")
    page.evaluate("dispatchEvent(new Event('online'))")
    expect(messages).to_have_count(0)
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator(STATE)).to_have_text("Cancelled")


def tell(page: Page, *details: dict[str, Any]) -> None:
    """Have its stream tell these snapshots of an execution that runs, and nothing else be heard of it."""
    running = {"status": "Running", "progress": 10, "step_results": [], "steps": []}
    told = [{"state": "PROGRESS", "details": {**running, **each}} for each in details]
    lines = "".join(f"data: {json.dumps(each)}\n\n" for each in told)
    answer = {"headers": {"Content-Type": "text/event-stream"}, "body": lines}
    page.route("**/task-status/**", lambda route: route.fulfill(**answer))
    for silent in ("**/executions/*/", "**/api/v1/stream*"):
        page.route(silent, lambda route: route.abort())


def test_a_step_that_was_begun_again_says_so(platform: Platform, page: Page) -> None:
    step = {"step": "Write", "name": "Write", "state": "running"}
    page.goto(platform.url)
    tell(page, {"steps": [step]}, {"steps": [{**step, "restarted": True}]})
    start_slow_words(page, words=300)
    expect(page.locator(".step-again")).to_be_visible()
    expect(page.locator(".step-title")).to_have_text(re.compile("Write.*begun again"))


def test_a_tool_that_is_its_own_step_is_named_once(platform: Platform, page: Page) -> None:
    entry = {"type": "tool_result", "step": None, "step_name": "lookup", "tool": "lookup", "data": "Found"}
    page.goto(platform.url)
    tell(page, {"step_results": [entry]})
    start_slow_words(page, words=300)
    expect(page.locator(".tool-line").first).to_have_text("lookup")


def test_steps_lie_in_the_step_that_they_belong_to(platform: Platform, new_context: NewContext) -> None:
    """Also where that is told after them, as what is finished is, or not yet, and another step ran beside it."""
    keys = [
        "Graph/agent#1",
        "Other",
        "Graph/tools#2/" + "look" * 20,
        "Graph/tools#2",
        "Graph/agent#3",
        "Graph",
        "Half %2F done/begin",
    ]
    names = [re.sub("#.*", "", key.rpartition("/")[2]) for key in keys]
    steps = [{"step": key, "name": name, "state": "done"} for key, name in zip(keys, names, strict=True)]
    page = new_context(viewport={"width": 360, "height": 740}).new_page()
    page.goto(platform.url)
    tell(page, {"steps": steps})
    start_slow_words(page, words=300)
    tops, nested = page.locator(".steps > ol > .step"), page.locator(".step > ol > .step")
    expect(tops.locator("> .step-title > span:nth-child(2)")).to_have_text(["Graph", "Other", "Half / done"])
    expect(nested.locator("> .step-title > span:not(.visually-hidden, [hidden])")).to_have_text(
        ["", "agent", "", "tools", "", "look" * 20, "", "agent", "2", "", "begin"]
    )
    assert page.evaluate("document.documentElement.scrollWidth") == 360


# Ending


def test_cancel_ends_an_execution_and_run_again_starts_another(platform: Platform, page: Page) -> None:
    page.goto(platform.url)
    start_slow_words(page, words=1000)
    expect(page.locator(GROWING)).to_contain_text("word3")
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator(STATE)).to_have_text("Cancelled")
    expect(page.get_by_role("heading", name="Unfinished answer")).to_be_visible()
    expect(page.locator(GROWING)).to_contain_text("word3")
    cancelled = page.url
    expect(page.get_by_role("button", name="Run again from the stopped step")).to_be_visible()
    page.get_by_role("button", name="Run again", exact=True).click()
    expect(page).not_to_have_url(cancelled)
    expect(page.locator(STATE)).to_have_text("Running", timeout=RUNNING_ON)
    expect(page.locator(".inputs")).to_contain_text("1000")
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator(STATE)).to_have_text("Cancelled")


def test_cancelling_by_keyboard_stops_the_step_and_leads_on(platform: Platform, page: Page) -> None:
    page.goto(platform.url)
    start_slow_words(page, words=1000)
    expect(page.locator(GROWING)).to_contain_text("word3")
    page.get_by_role("button", name="Cancel").press("Enter")
    expect(page.locator(STATE)).to_have_text("Cancelled")
    expect(page.get_by_role("button", name="Run again", exact=True)).to_be_focused()
    for _ in range(2):
        expect(page.locator(".step").last).to_have_attribute("data-state", "cancelled")
        expect(page.locator(".step-title").last).to_contain_text("(stopped)")
        page.reload()


def test_a_failure_is_a_sentence_with_a_way_on(platform: Platform, page: Page) -> None:
    page.goto(platform.url)
    start(page, "Failing")
    expect(page.locator(STATE)).to_have_text("Failed", timeout=RUNNING_ON)
    expect(page.locator(".failure")).to_contain_text("The story has no end. Try another one.")
    expect(page.get_by_role("button", name="Run again", exact=True)).to_be_visible()
    expect(page.locator(".step")).to_have_attribute("data-state", "failed")
    expect(page.get_by_role("status")).to_contain_text("Failing failed: The story has no end.")
    page.reload()
    expect(page.locator(".failure")).to_contain_text("The story has no end. Try another one.")


def test_a_failed_execution_is_run_again_from_its_failed_step_and_from_the_start(
    platform: Platform, page: Page, tmp_path: Path
) -> None:
    page.goto(platform.url)
    start(page, "Order", folder=str(tmp_path))
    expect(page.locator(STATE)).to_have_text("Failed", timeout=RUNNING_ON)
    failed = page.url
    (tmp_path / "repaired").touch()
    page.get_by_role("button", name="Run again from the failed step").press("Enter")
    expect(page).not_to_have_url(failed)
    expect(page.locator(TITLE)).to_be_focused()
    expect(page.get_by_role("status")).to_contain_text("Order started")
    expect_done(page)
    expect(page.locator(".step-title")).to_have_text(
        [re.compile(name) for name in ("Draw", "Pay", "Deliver")]
    )
    assert len(list(tmp_path.glob("drawn-*"))) == 1
    expect(page.get_by_role("link", name="Order (run again)")).to_have_count(1)
    page.get_by_role("link", name="an earlier execution").click()
    expect(page).to_have_url(failed)
    page.get_by_role("button", name="Run again", exact=True).click()
    expect(page).not_to_have_url(failed)
    expect_done(page)
    assert len(list(tmp_path.glob("drawn-*"))) == 2


def test_what_may_pass_is_best_run_again_from_where_it_failed(platform: Platform, page: Page) -> None:
    page.goto(platform.url)
    start(page, "Flaky", failures="9")
    expect(page.locator(".failure")).to_contain_text("This may pass", timeout=RUNNING_ON)
    expect(page.locator(".actions .primary")).to_have_text("Run again from the failed step")


def test_what_cannot_be_run_again_says_why(platform: Platform, page: Page) -> None:
    page.goto(platform.url)
    start(page, "Figures")
    expect(page.locator(STATE)).to_have_text("Done", timeout=RUNNING_ON)
    refusal = {"status": 409, "json": {"error": "There is no flow “figures_flow”."}}
    page.route("**/run-again", lambda route: route.fulfill(**refusal))
    button = page.get_by_role("button", name="Run again")
    button.press("Enter")
    expect(page.get_by_role("alert")).to_have_text("There is no flow “figures_flow”.")
    expect(button).to_be_focused()


def test_the_answer_is_copied_as_it_was_written(platform: Platform, new_context: NewContext) -> None:
    page = new_context(permissions=["clipboard-read", "clipboard-write"]).new_page()
    page.goto(platform.url)
    start_slow_words(page, words=2)
    expect_done(page)
    page.get_by_role("button", name="Copy answer").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()").strip() == "**word0** **word1**"


def test_what_a_model_says_is_never_taken_for_the_pages_own(platform: Platform, page: Page) -> None:
    page.goto(platform.url)
    start(page, "Markup")
    expect(page.locator(GROWING)).to_contain_text("<img src=x")
    expect_done(page)
    for place in (".answer", ".steps"):
        expect(page.locator(place)).to_contain_text("<img src=x")
        expect(page.locator(f"{place} :is(img, script)")).to_have_count(0)
        expect(page.locator(f"{place} a[href^='javascript:']")).to_have_count(0)
    expect(page).to_have_title("Done · Markup · API-CTM")


def test_an_answer_too_large_to_be_sent_along_is_read_on_its_own(platform: Platform, page: Page) -> None:
    page.goto(platform.url)
    start(page, "Large", kilobytes="50")
    expect_done(page)
    assert len(page.locator(ANSWER).inner_text()) >= 50_000
    expect(page.get_by_role("link", name="Open it")).to_be_visible()


def test_an_unknown_execution_is_a_page_that_says_so(platform: Platform, page: Page) -> None:
    page.goto(f"{platform.url}/executions/00000000-0000-4000-8000-000000000000/")
    expect(page.get_by_role("heading", name="Not found")).to_be_visible()
    page.get_by_role("link", name="Back to the flows").click()
    expect(page.get_by_role("heading", name="Start a flow")).to_be_visible()


def test_the_title_of_the_readme_says_the_name_once(platform: Platform, page: Page) -> None:
    page.goto(f"{platform.url}/docs/readme/")
    expect(page).to_have_title("API-CTM")


# The form


def test_a_form_is_made_from_the_schema_and_sends_its_types(platform: Platform, page: Page) -> None:
    page.goto(platform.url)
    choose(page, "Every field")
    field(page, "Name").fill("Ann")
    field(page, "Text").fill("Three words here")
    field(page, "Ratio").fill("0.5")
    field(page, "Tone").select_option("bold")
    field(page, "Tags").fill("one\ntwo\n")
    field(page, "Period").fill('{"since": 1990}')
    field(page, "Loud").check()
    expect(page.get_by_text("16 / 2,000")).to_be_visible()
    page.get_by_role("button", name="Start").click()
    expect(page.locator(STATE)).to_have_text("Done", timeout=RUNNING_ON)
    assert json.loads(page.locator(".answer pre").inner_text()) == {
        **{
            "name": "Ann",
            "text": "Three words here",
            "ratio": 0.5,
            "count": 3,
            "tone": "bold",
            "limit": None,
        },
        **{"tags": ["one", "two"], "period": {"since": 1990, "until": None}, "loud": True},
    }


def test_wrong_fields_say_so_where_they_stand_and_the_first_gets_the_focus(
    platform: Platform, page: Page
) -> None:
    page.goto(platform.url)
    start(page, "Every field", name="Ann", text="No", ratio="7", period="{")
    text = field(page, "Text")
    expect(text).to_be_focused()
    expect(text).to_have_attribute("aria-invalid", "true")
    expect(text).to_have_accessible_description(re.compile("Please write at least 3 characters"))
    expect(page.locator("#input-ratio-error")).to_have_text("Please enter a number: above 0, up to 1.")
    expect(page.locator("#input-period-error")).to_have_text("This is not valid JSON.")
    text.fill("Now it is long enough")
    expect(page.locator("#input-text-error")).to_be_hidden()
    expect(page).to_have_url(f"{platform.url}/")


def test_what_only_the_server_knows_stands_at_its_field_too(platform: Platform, page: Page) -> None:
    page.goto(platform.url)
    start(page, "Every field", name="ann", text="Long enough", ratio="0.5", period='{"since": "long ago"}')
    expect(page.locator("#input-name-error")).not_to_be_empty()
    expect(field(page, "Name")).to_be_focused()
    expect(page.locator("#input-period-error")).to_contain_text("since")


def test_a_draft_survives_a_reload_and_a_look_at_another_flow(platform: Platform, page: Page) -> None:
    page.goto(platform.url)
    choose(page, "Web search")
    field(page, "Question").fill("What is half written")
    choose(page, "Poem")
    page.reload()
    choose(page, "Web search")
    expect(field(page, "Question")).to_have_value("What is half written")


def test_too_many_starts_are_answered_with_the_servers_sentence(platform: Platform, page: Page) -> None:
    def refuse(route: Route) -> None:
        route.fulfill(
            status=429, headers={"Retry-After": "20"}, json={"error": "Too many starts. Wait 20 seconds."}
        )

    page.goto(platform.url)
    page.route("**/start-task/", refuse)
    start(page, "Poem")
    expect(page.get_by_role("alert")).to_have_text("Too many starts. Wait 20 seconds.")
    expect(page.get_by_role("button", name="Start")).to_be_enabled()


def count_in(folder: Path) -> int:
    """Count executions by their input, in a thread: the browser's event loop runs in this one."""

    def count() -> int:
        with closing(connection):
            return Execution.objects.filter(inputs__folder=str(folder)).count()

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(count).result()


def test_a_start_whose_answer_was_lost_is_asked_for_again_and_happens_once(
    platform: Platform, page: Page, tmp_path: Path
) -> None:
    keys: list[str | None] = []

    def lose(route: Route) -> None:
        keys.append(route.request.headers.get("idempotency-key"))
        match len(keys):
            case 1:
                route.fetch()
                page.context.clear_cookies(name=re.compile("^sessionid"))
                route.abort()
            case 2:
                route.fulfill(
                    status=503, headers={"Retry-After": "1"}, json={"error": "The database is away."}
                )
            case _:
                route.continue_()

    page.goto(platform.url)
    page.route("**/start-task/", lose)
    start(page, "Order", folder=str(tmp_path))
    expect(page.locator("#start-wait")).to_have_text("The server does not answer. Trying again …")
    expect(page.get_by_role("status")).to_contain_text("Trying again")
    page.locator("#input-folder").press("Control+Enter")  # is no second start
    expect(page).to_have_url(EXECUTION)
    expect(page.locator("#start-wait")).to_be_hidden()
    expect(page.locator(STATE)).to_have_text("Failed", timeout=RUNNING_ON)
    assert len(keys) == 3
    assert len(set(keys)) == 1
    assert count_in(tmp_path) == 1


def test_a_start_that_nobody_answers_is_given_up_and_pressing_again_is_the_same_one(
    platform: Platform, page: Page, tmp_path: Path
) -> None:
    keys: list[str | None] = []

    def lose(route: Route) -> None:
        keys.append(route.request.headers.get("idempotency-key"))
        route.fetch()
        route.fulfill(status=502, headers={"Retry-After": "60"})

    page.goto(platform.url)
    page.route("**/start-task/", lose)
    start(page, "Order", folder=str(tmp_path))
    expect(page.get_by_role("alert")).to_contain_text("The server does not answer. What you entered is kept")
    expect(page.locator("#input-folder")).to_have_value(str(tmp_path))
    page.unroute("**/start-task/")
    with page.expect_request("**/start-task/") as request:
        page.get_by_role("button", name="Start").click()
    expect(page).to_have_url(EXECUTION)
    assert [request.value.headers["idempotency-key"]] == keys
    assert count_in(tmp_path) == 1
    with page.expect_request("**/start-task/") as request:
        page.get_by_role("button", name="Start").click()
    assert request.value.headers["idempotency-key"] not in keys


def test_a_flow_that_cannot_be_started_says_why(platform: Platform, page: Page) -> None:
    page.goto(platform.url)
    for title, reason in {"Members only": "Sign in to run this flow.", "Needs key": "TAVILY_API_KEY"}.items():
        expect(page.get_by_role("radio", name=re.compile(f"^{title}"))).to_be_disabled()
        expect(page.locator(".flow", has_text=title)).to_contain_text(reason)


# Everybody


def test_the_keyboard_is_enough(platform: Platform, page: Page) -> None:
    page.goto(platform.url)
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    expect(page.get_by_role("radio", checked=True)).to_be_focused()
    page.keyboard.press("ArrowUp")  # from the first to the last
    expect(page.get_by_role("radio", name=re.compile("^Web search"))).to_be_checked()
    page.keyboard.press("Tab")
    expect(field(page, "Question")).to_be_focused()
    page.keyboard.type("What is a flow?")
    page.keyboard.press("Control+Enter")
    expect_done(page)


def _fill_wrongly(page: Page) -> None:
    start(page, "Every field")
    expect(page.locator("#input-name-error")).to_be_visible()


def _write(page: Page) -> None:
    start_slow_words(page, words=300)
    expect(page.locator(GROWING)).to_contain_text("word")


def _finish(page: Page) -> None:
    start(page, "Long")
    expect_done(page)


def _fail(page: Page) -> None:
    """Once, and again from the failed step."""
    start(page, "Failing")
    page.get_by_role("button", name="Run again from the failed step").click(timeout=RUNNING_ON)
    expect(page.locator(".origin")).to_be_visible()
    expect(page.locator(".failure")).to_be_visible(timeout=RUNNING_ON)


def _lose(page: Page) -> None:
    page.route("**/start-task/", lambda route: route.abort())
    start(page, "Poem")
    expect(page.locator("#start-wait")).to_be_visible()


STAGES = {
    "empty": lambda page: None,
    "wrong": _fill_wrongly,
    "running": _write,
    "long": _finish,
    "failed": _fail,
    "unanswered": _lose,
}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("stage", STAGES)
def test_axe_finds_nothing(platform: Platform, new_context: NewContext, stage: str, scheme: str) -> None:
    page = new_context(color_scheme=scheme, reduced_motion="reduce").new_page()
    page.goto(platform.url)
    STAGES[stage](page)
    found = Axe().run(page).response["violations"]
    assert [(each["id"], each["nodes"][0]["html"]) for each in found] == []


@pytest.mark.parametrize("stage", STAGES)
def test_a_narrow_screen_scrolls_in_one_direction_only(
    platform: Platform, new_context: NewContext, stage: str
) -> None:
    page = new_context(viewport={"width": 360, "height": 740}).new_page()
    page.goto(platform.url)
    STAGES[stage](page)
    assert page.evaluate("document.documentElement.scrollWidth") == 360


def test_the_page_speaks_spanish(platform: Platform, new_context: NewContext) -> None:
    page = new_context(locale="es-CO").new_page()
    page.goto(platform.url)
    expect(page.get_by_role("heading", name="Iniciar un flujo")).to_be_visible()
    expect(page.get_by_role("heading", name="No hay nada en ejecución")).to_be_visible()
    expect(page.locator("html")).to_have_attribute("lang", "es")


@pytest.fixture
def spanish(platform: Platform, new_context: NewContext) -> Page:
    """A Spanish page that notes every line which says what is going on, however short it is shown."""
    page = new_context(locale="es-ES").new_page()
    page.goto(platform.url)
    page.evaluate(
        """() => {
            globalThis.said = new Set();
            const note = () => document.querySelectorAll(".status, .row-facts, [aria-valuetext]").forEach(
                (each) => said.add(each.getAttribute("aria-valuetext")?.split(" · ")[1] ?? each.textContent));
            new MutationObserver(note).observe(document.body,
                {subtree: true, childList: true, characterData: true, attributes: true});
        }"""
    )
    return page


def begin(spanish: Page, title: str, **fields: str) -> None:
    choose(spanish, title)
    for name, value in fields.items():
        spanish.locator(f"#input-{name}").fill(value)
    spanish.get_by_role("button", name="Iniciar", exact=True).click()


def expect_no_english(spanish: Page) -> None:
    said: list[str] = spanish.evaluate("[...said]")
    assert said
    english = re.compile(r"\b(Waiting|Writing|Running|Done|Using|The|was|failed|cancelled)\b")
    assert [each for each in said if english.search(each)] == []
    places = spanish.locator("#past, #announcer, .title-line, .facts, .actions, .failure").all_inner_texts()
    assert len(places) > 2
    assert [each for each in places if english.search(each)] == []


def test_an_execution_is_told_in_spanish_to_its_end(spanish: Page) -> None:
    begin(spanish, "Poem")
    expect(spanish.locator(STATE)).to_have_text("Terminada", timeout=RUNNING_ON)
    expect(spanish.get_by_role("status")).to_contain_text("Poem ha terminado.")
    assert "Escribiendo …" in spanish.evaluate("[...said]")
    spanish.get_by_role("link", name="API-CTM").click()
    expect(spanish.locator(".card .state")).to_have_text("Terminada")
    expect_no_english(spanish)


def test_a_failure_is_told_in_spanish(spanish: Page) -> None:
    begin(spanish, "Secret")
    expect(spanish.locator(STATE)).to_have_text("Fallida", timeout=RUNNING_ON)
    sentence = "El flujo falló por un error en su código. El registro del servidor tiene los detalles."
    expect(spanish.locator(".failure-sentence")).to_have_text(sentence)
    expect(spanish.get_by_role("status")).to_contain_text(f"Secret ha fallado: {sentence}")
    expect_no_english(spanish)
    spanish.get_by_role("link", name="API-CTM").click()
    expect(spanish.locator(".card-text")).to_have_text(sentence)


def test_a_cancelled_execution_is_told_in_spanish(spanish: Page) -> None:
    begin(spanish, "Slow words", words="1000")
    expect(spanish.locator(GROWING)).to_contain_text("word3", timeout=RUNNING_ON)
    spanish.get_by_role("button", name="Cancelar").click()
    expect(spanish.locator(STATE)).to_have_text("Cancelada")
    expect_no_english(spanish)
    spanish.get_by_role("link", name="API-CTM").click()
    expect(spanish.locator(".card-text")).to_have_text("La ejecución se canceló.")
