"""From the box to the mail and out again, in a real browser, against real web and worker processes."""

import re
import uuid
from collections.abc import Callable
from datetime import datetime, timedelta

import pytest
from axe_playwright_python.sync_playwright import Axe
from django.utils.timezone import now
from playwright.sync_api import Locator, Page, Request, expect

from accounts.models import User
from config.tests.waiting import wait_until
from main.models import Execution
from main.tests.browser import NewContext
from main.tests.page import EXECUTION, GROWING, RUNNING_ON, STATE, TITLE, expect_done, start, start_slow_words
from main.tests.people import PASSWORD
from main.tests.platform import Platform
from main.tests.rows import waiting
from notifications.models import Delivery, Notification, Preference
from notifications.unsubscribe import unsubscribe_address

BOX = "Mail me when it ends"
HISTORY = ".mail-history"


@pytest.fixture
def alice(platform: Platform) -> User:
    """Staff, who may read the mailbox."""
    return User.objects.create_superuser(f"alice-{uuid.uuid4().hex[:8]}@example.com", PASSWORD)


@pytest.fixture
def signed_in(platform: Platform, alice: User, new_context: NewContext) -> Page:
    """Alice's page."""
    return page_of(alice, platform, new_context)


def page_of(user: User, platform: Platform, new_context: NewContext, **options: object) -> Page:
    page = new_context(**options).new_page()
    page.goto(f"{platform.url}/sign-in/")
    page.locator("#id_username").fill(user.email)
    page.locator("#id_password").fill(PASSWORD)
    page.locator("main button[type=submit]").click()
    page.wait_for_url(f"{platform.url}/")
    return page


def start_box(page: Page) -> Locator:
    return page.locator("#start").get_by_label(BOX)


def live_box(page: Page) -> Locator:
    return page.locator(".execution").get_by_label(BOX)


def requests_to(page: Page, path: str) -> list[str]:
    """Note what a page asks for from now on, by method and the end of the path."""
    seen: list[str] = []

    def note(request: Request) -> None:
        if re.search(path, request.url):
            seen.append(f"{request.method} {request.url.rsplit('/', 1)[-1]}")

    page.on("request", note)
    return seen


# From the box to the mail


def test_a_box_a_run_a_mail_its_link_and_out(
    platform: Platform, signed_in: Page, alice: User, new_context: NewContext
) -> None:
    start_box(signed_in).check()
    start(signed_in, "Poem")
    expect_done(signed_in)
    execution_page = signed_in.url
    expect(signed_in.locator(HISTORY)).to_contain_text(f"{alice.email} · sent", timeout=RUNNING_ON)

    signed_in.get_by_role("link", name="Mailbox").click()
    signed_in.get_by_role("link", name=re.compile(f"Poem: finished {re.escape(alice.email)}")).click()
    expect(signed_in.get_by_role("heading", name="Poem: finished")).to_be_visible()
    mail = signed_in.frame_locator("iframe.mail-html")
    expect(mail.get_by_role("heading", name="Poem")).to_be_visible()

    with signed_in.context.expect_page() as opened:
        mail.get_by_role("link", name="Open the execution").click()
    expect(opened.value).to_have_url(execution_page)
    expect_done(opened.value)

    address = mail.get_by_role("link", name="Unsubscribe").get_attribute("href")
    assert address
    assert address.startswith(f"{platform.url}/unsubscribe/")
    stranger = new_context().new_page()  # who is not signed in
    stranger.goto(address)
    expect(stranger.get_by_text(f"Shall no more mails be sent to {alice.email}?")).to_be_visible()
    assert Preference.of(alice).unsubscribed_at is None
    stranger.get_by_role("button", name="Unsubscribe").click()
    expect(stranger.get_by_role("status")).to_have_text(f"No more mails are sent to {alice.email}.")
    assert Preference.of(alice).unsubscribed_at


def test_who_has_unsubscribed_is_led_to_where_mails_are_allowed_again(
    platform: Platform, signed_in: Page, alice: User
) -> None:
    Preference.unsubscribe(alice.pk)
    signed_in.reload()
    expect(start_box(signed_in)).to_be_disabled()
    expect(start_box(signed_in)).to_have_accessible_description(re.compile("You have unsubscribed"))
    signed_in.get_by_role("link", name="Allow them again").click()
    expect(signed_in).to_have_url(f"{platform.url}/notifications/")
    signed_in.get_by_role("button", name="Save").click()
    expect(signed_in.get_by_role("status")).to_have_text("Saved.")
    signed_in.get_by_role("link", name="API-CTM").click()
    expect(start_box(signed_in)).to_be_enabled()


def test_a_tab_remembers_its_tick(signed_in: Page) -> None:
    start_box(signed_in).check()
    signed_in.reload()
    expect(start_box(signed_in)).to_be_checked()
    other = signed_in.context.new_page()
    other.goto(signed_in.url)
    expect(start_box(other)).not_to_be_checked()


def test_who_does_not_tick_gets_no_mail(signed_in: Page) -> None:
    start(signed_in, "Poem")
    expect_done(signed_in)
    assert Execution.objects.get(id=signed_in.url.split("/")[-2]).notify is False
    expect(signed_in.locator(HISTORY)).to_be_hidden()


# On the live page


def test_the_box_on_the_live_page_asks_and_takes_back(signed_in: Page, alice: User) -> None:
    start_slow_words(signed_in, words=1000)
    expect(live_box(signed_in)).not_to_be_checked()
    execution = Execution.objects.get(owner=alice)
    for notify in (True, False, True):
        live_box(signed_in).set_checked(notify)
        wait_until(lambda: Execution.objects.get(id=execution.id).notify is notify)  # noqa: B023 called at once
        expect(live_box(signed_in)).to_be_enabled()
        expect(live_box(signed_in)).to_be_focused()
    signed_in.reload()
    expect(live_box(signed_in)).to_be_checked()
    signed_in.get_by_role("button", name="Cancel").click()
    expect(live_box(signed_in)).to_be_hidden()
    expect(signed_in.locator(HISTORY)).to_contain_text(f"{alice.email} · sent", timeout=RUNNING_ON)


def test_the_page_says_why_it_could_not_ask(signed_in: Page) -> None:
    start_slow_words(signed_in, words=1000)
    expect(live_box(signed_in)).to_be_visible()
    signed_in.route("**/notify", lambda route: route.abort())
    live_box(signed_in).click()
    expect(signed_in.get_by_role("alert").filter(has_text="cannot be reached")).to_be_visible()
    expect(live_box(signed_in)).not_to_be_checked()
    signed_in.unroute("**/notify")
    live_box(signed_in).check()
    expect(signed_in.locator(".execution [role=alert]")).to_be_hidden()


def test_a_visitor_has_no_box_and_asks_for_nothing(platform: Platform, page: Page) -> None:
    asked = requests_to(page, "notif|/seen")
    page.goto(platform.url)
    expect(page.get_by_role("button", name="Start")).to_be_enabled()
    expect(start_box(page)).to_have_count(0)
    start_slow_words(page, words=30)
    expect(page.locator(GROWING)).to_contain_text("word3")
    expect(live_box(page)).to_have_count(0)
    expect_done(page)
    assert asked == []


def test_the_page_asks_seldom(signed_in: Page) -> None:
    """Once when it is opened, and after the end for as long as the mail is under way."""
    asked = requests_to(signed_in, "/api/v1/executions/.*(notif|/seen)")
    start_box(signed_in).check()
    start_slow_words(signed_in, words=200)
    expect_done(signed_in)
    expect(signed_in.locator(HISTORY)).to_contain_text("· sent", timeout=RUNNING_ON)
    assert set(asked) == {"GET notifications"}
    assert 2 <= len(asked) <= 5


# After the end


def test_the_history_says_what_every_try_came_to(signed_in: Page, alice: User, platform: Platform) -> None:
    execution = waiting(owner=alice, state="SUCCESS", result="Done.", finished_at=now())
    notification = Notification.objects.create(
        user=alice, execution=execution, event="ended", channel="email", reason="asked", state="FAILED"
    )
    tries = {"put_off": "451 4.7.1 Greylisted, come back later", "refused": "550 <b>No such user</b>"}
    for number, (outcome, answer) in enumerate(tries.items(), 1):
        Delivery.objects.create(
            notification=notification,
            attempt=number,
            at=datetime.fromisoformat(f"2026-11-21T12:0{number}:00Z"),
            outcome=outcome,
            answer=answer,
            seconds=0.5,
        )
    signed_in.goto(f"{platform.url}/executions/{execution.id}/")
    history = signed_in.locator(HISTORY)
    expect(history).to_contain_text(f"{alice.email} · not delivered")
    first, second = history.locator(".tries > li").all()
    expect(first).to_contain_text(re.compile(r"12:01:00.*put off.*0\.5s.*451 4\.7\.1 Greylisted"))
    expect(second).to_contain_text(re.compile(r"12:02:00.*refused.*550 <b>No such user</b>"))


def long_one(page: Page, alice: User) -> Execution:
    """Start what is long enough to be told of."""
    Preference.objects.create(user=alice, mode="long", seconds=1)
    start_slow_words(page, words=250)
    expect(page.locator(TITLE)).to_have_text("Slow words")
    return Execution.objects.get(owner=alice)


def test_a_page_that_watched_to_the_end_withdraws_the_mail(signed_in: Page, alice: User) -> None:
    asked = requests_to(signed_in, "/seen")
    execution = long_one(signed_in, alice)
    expect_done(signed_in)
    expect(signed_in.locator(HISTORY)).to_contain_text("Its owner watched it to the end.", timeout=RUNNING_ON)
    notification = Notification.objects.get(execution=execution)
    assert notification.state == Notification.State.SKIPPED
    assert asked == ["POST seen"]


def test_a_page_whose_clock_is_fast_says_so_as_well(signed_in: Page, alice: User) -> None:
    signed_in.clock.install(time=datetime.now() + timedelta(hours=1))
    asked = requests_to(signed_in, "/seen")
    long_one(signed_in, alice)
    expect_done(signed_in)
    expect(signed_in.locator(HISTORY)).to_contain_text("Its owner watched it to the end.", timeout=RUNNING_ON)
    assert asked == ["POST seen"]


def test_a_page_that_shows_something_else_does_not(
    signed_in: Page, alice: User, new_context: NewContext, platform: Platform
) -> None:
    execution = long_one(signed_in, alice)
    signed_in.get_by_role("link", name="API-CTM").click()
    expect(signed_in.locator(".card .state")).to_have_text("Done", timeout=RUNNING_ON)
    bob = User.objects.create_superuser(f"bob-{uuid.uuid4().hex[:8]}@example.com", PASSWORD)
    other = page_of(bob, platform, new_context)
    asked = requests_to(other, "/seen")
    other.goto(f"{platform.url}/executions/{execution.id}/")
    expect(other.locator(HISTORY)).to_contain_text(f"{alice.email} · waiting")
    assert asked == []
    assert Notification.objects.get(execution=execution).state == Notification.State.PENDING


# The pages


def _run(page: Page, user: User) -> None:
    start_box(page).check()
    start_slow_words(page, words=1000)
    expect(live_box(page)).to_be_checked()


def _history(page: Page, user: User) -> None:
    start_box(page).check()
    start(page, "Failing")
    expect(page.locator(STATE)).to_have_text("Failed", timeout=RUNNING_ON)
    expect(page.locator(HISTORY)).to_contain_text("· sent", timeout=RUNNING_ON)


def _mailbox(page: Page, user: User) -> None:
    _history(page, user)
    page.get_by_role("link", name="Mailbox").click()
    expect(page.locator(".mails")).to_contain_text("Failing: failed")


def _mail(page: Page, user: User) -> None:
    _mailbox(page, user)
    page.locator(".mails a").first.click()
    page.get_by_text("As plain text").click()
    page.get_by_text("All lines of its head").click()
    expect(page.frame_locator("iframe").get_by_role("link", name="Unsubscribe")).to_be_visible()


def _mail_alone(page: Page, user: User) -> None:
    """As a mail program shows it. On its own address no script may run, and so no test of it."""
    _mail(page, user)
    html = page.request.get(f"{page.url}html/").text()
    page.goto("about:blank")
    page.set_content(html)


def _preferences(page: Page, user: User) -> None:
    page.get_by_role("link", name=user.email).click()
    page.get_by_label("Long is more than").fill("0")
    page.get_by_label("When one took long").check()
    page.get_by_role("button", name="Save").click()
    expect(page.locator(".field-error")).to_be_visible()


def _unsubscribed(page: Page, user: User) -> None:
    Preference.unsubscribe(user.pk)
    page.reload()
    expect(start_box(page)).to_be_disabled()


def _refused(page: Page, user: User) -> None:
    Preference.unsubscribe(user.pk)
    page.goto("/".join(page.url.split("/")[:3]) + "/notifications/")


def _asked(page: Page, user: User) -> None:
    token = unsubscribe_address(user.pk).partition("/unsubscribe/")[2]
    page.goto("/".join(page.url.split("/")[:3]) + f"/unsubscribe/{token}")


def _out(page: Page, user: User) -> None:
    _asked(page, user)
    page.get_by_role("main").get_by_role("button", name="Unsubscribe").click()
    expect(page.get_by_role("status")).to_be_visible()


PAGES: dict[str, Callable[[Page, User], None]] = {
    "running": _run,
    "history": _history,
    "mailbox": _mailbox,
    "mail": _mail,
    "html": _mail_alone,
    "preferences": _preferences,
    "unsubscribed": _unsubscribed,
    "unsubscribed preferences": _refused,
    "unsubscribe": _asked,
    "out": _out,
}


# A mail is shown as a part of somebody's page, whose landmarks are not its business.
A_PART = {"rules": {rule: {"enabled": False} for rule in ("landmark-one-main", "region")}}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", PAGES)
def test_axe_finds_nothing(
    platform: Platform, alice: User, new_context: NewContext, name: str, scheme: str
) -> None:
    page = page_of(alice, platform, new_context, color_scheme=scheme, reduced_motion="reduce")
    PAGES[name](page, alice)
    found = Axe().run(page, options=A_PART if name == "html" else None).response["violations"]
    assert [(each["id"], each["nodes"][0]["html"]) for each in found] == []


@pytest.mark.parametrize("width", [320, 360])
@pytest.mark.parametrize("name", PAGES)
def test_a_narrow_screen_scrolls_in_one_direction_only(
    platform: Platform, alice: User, new_context: NewContext, name: str, width: int
) -> None:
    page = page_of(alice, platform, new_context, viewport={"width": width, "height": 740})
    PAGES[name](page, alice)
    assert page.evaluate("document.documentElement.scrollWidth") == width


def test_it_is_told_in_spanish(platform: Platform, alice: User, new_context: NewContext) -> None:
    """Alice's first sign-in is with a Spanish browser: so are her mails."""
    page = page_of(alice, platform, new_context, locale="es-CO")
    page.locator("#start").get_by_label("Enviarme un correo cuando termine").check()
    page.locator(".flow", has=page.get_by_text("Secret", exact=True)).get_by_role("radio").check()
    page.get_by_role("button", name="Iniciar", exact=True).click()
    expect(page).to_have_url(EXECUTION)
    expect(page.locator(HISTORY)).to_contain_text(f"{alice.email} · enviado", timeout=RUNNING_ON)
    expect(page.locator(HISTORY)).to_contain_text("Guardado en la carpeta de correos.")
    page.get_by_role("link", name="Buzón").click()
    page.get_by_role("link", name="Secret: fallida").first.click()
    mail = page.frame_locator("iframe.mail-html")
    expect(mail.locator("html")).to_have_attribute("lang", "es")
    expect(mail.get_by_text("El flujo falló por un error en su código.")).to_be_visible()
    expect(mail.get_by_role("link", name="Darse de baja")).to_be_visible()
