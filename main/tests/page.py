"""The page as a person uses it."""

import re

from playwright.sync_api import Locator, Page, expect

TITLE = "#execution-title"
STATE = ".execution .title-line .state"
ANSWER = ".answer .prose"
GROWING = ".answer .growing"
RUNNING_ON = 15_000  # milliseconds that an execution of these tests may take on a busy machine
EXECUTION = re.compile(r"/executions/[0-9a-f-]{36}/$")


def choose(page: Page, title: str) -> None:
    page.locator(".flow", has=page.get_by_text(title, exact=True)).get_by_role("radio").check()


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
