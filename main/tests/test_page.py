"""The page, in a real browser, against real web and worker processes."""

import json
import re

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Locator, Page, Route, expect

from main.tests.browser import NewContext
from main.tests.platform import Platform

TITLE = "#execution-title"
STATE = ".execution .title-line .state"
ANSWER = ".answer .prose"
GROWING = ".answer .growing"
RUNNING_ON = 15_000  # milliseconds that an execution of these tests may take on a busy machine
EXECUTION = re.compile(r"/executions/[0-9a-f-]{36}/$")


def choose(page: Page, title: str) -> None:
    page.get_by_role("radio", name=re.compile(f"^{title}")).check()


def field(page: Page, label: str) -> Locator:
    return page.locator("#fields").get_by_label(label)


def start(page: Page, title: str, **fields: str) -> None:
    """Choose a flow, fill its fields, press Start."""
    choose(page, title)
    for name, value in fields.items():
        page.locator(f"#input-{name}").fill(value)
    page.get_by_role("button", name="Start").click()


def start_slow_words(page: Page, words: int = 30) -> None:
    start(page, "Slow words", words=str(words))


def expect_done(page: Page) -> None:
    expect(page.locator(STATE)).to_have_text("Done", timeout=RUNNING_ON)
    expect(page.locator(ANSWER)).to_be_visible()


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
    start_slow_words(page, words=60)
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
    page.get_by_role("button", name="Start").click()
    messages = page.get_by_role("alert").filter(has_text="The server cannot be reached")
    expect(messages).to_have_count(2)
    page.unroute("**/*")
    page.evaluate("dispatchEvent(new Event('online'))")
    expect(messages).to_have_count(0)
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator(STATE)).to_have_text("Cancelled")


def test_a_step_that_was_begun_again_says_so(platform: Platform, page: Page) -> None:
    def restarted(route: Route) -> None:
        snapshot = {"status": "Write …", "progress": 10, "step_results": [], "partial_result": None}
        steps = [{"step": "Write", "name": "Write", "state": "running"}]
        again = [{**steps[0], "restarted": True}]
        told = [{"state": "RUNNING", "details": {**snapshot, "steps": each}} for each in (steps, again)]
        lines = "".join(f"data: {json.dumps(each)}\n\n" for each in told)
        route.fulfill(headers={"Content-Type": "text/event-stream"}, body=lines)

    page.goto(platform.url)
    page.route("**/task-status/**", restarted)
    start_slow_words(page, words=300)
    expect(page.locator(".step-again")).to_be_visible()
    expect(page.locator(".step-title")).to_have_text(re.compile("Write.*begun again"))


def test_a_tool_that_is_its_own_step_is_named_once(platform: Platform, page: Page) -> None:
    def looked_up(route: Route) -> None:
        entry = {
            "type": "tool_result",
            "step": None,
            "step_name": "lookup",
            "tool": "lookup",
            "data": "Found",
        }
        details = {"status": "Running", "progress": 10, "step_results": [entry], "steps": []}
        line = json.dumps({"state": "RUNNING", "details": details})
        route.fulfill(headers={"Content-Type": "text/event-stream"}, body=f"data: {line}\n\n")

    page.goto(platform.url)
    page.route("**/task-status/**", looked_up)
    start_slow_words(page, words=300)
    expect(page.locator(".tool-line").first).to_have_text("lookup")


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
    page.get_by_role("button", name="Run again").click()
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
    expect(page.get_by_role("button", name="Run again")).to_be_focused()
    for _ in range(2):
        expect(page.locator(".step").last).to_have_attribute("data-state", "cancelled")
        expect(page.locator(".step-title").last).to_contain_text("(stopped)")
        page.reload()


def test_a_failure_is_a_sentence_with_a_way_on(platform: Platform, page: Page) -> None:
    page.goto(platform.url)
    start(page, "Failing")
    expect(page.locator(STATE)).to_have_text("Failed", timeout=RUNNING_ON)
    expect(page.locator(".failure")).to_contain_text("The story has no end. Try another one.")
    expect(page.get_by_role("button", name="Run again")).to_be_visible()
    expect(page.locator(".step")).to_have_attribute("data-state", "failed")
    expect(page.get_by_role("status")).to_contain_text("Failing failed: The story has no end.")
    page.reload()
    expect(page.locator(".failure")).to_contain_text("The story has no end. Try another one.")


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
    start(page, "Failing")
    expect(page.locator(".failure")).to_be_visible(timeout=RUNNING_ON)


STAGES = {
    "empty": lambda page: None,
    "wrong": _fill_wrongly,
    "running": _write,
    "long": _finish,
    "failed": _fail,
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


def begin(spanish: Page, title: str) -> None:
    choose(spanish, title)
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
    begin(spanish, "Slow words")
    expect(spanish.locator(GROWING)).to_contain_text("word3", timeout=RUNNING_ON)
    spanish.get_by_role("button", name="Cancelar").click()
    expect(spanish.locator(STATE)).to_have_text("Cancelada")
    expect_no_english(spanish)
    spanish.get_by_role("link", name="API-CTM").click()
    expect(spanish.locator(".card-text")).to_have_text("La ejecución se canceló.")
