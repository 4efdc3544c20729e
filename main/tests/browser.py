"""Chromium for tests of pages. This is a plugin, as the platform is (see platform.py)."""

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, sync_playwright

from main.tests.programs import program

ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
]
ARGUMENTS += ["--disable-component-update", "--disable-sync"]

NewContext = Callable[..., BrowserContext]


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    executable = program("chromium", "chromium-browser", "google-chrome")
    with sync_playwright() as playwright:
        # Its event loop stays in this thread, where tests ask the database.
        os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = "true"
        browser = playwright.chromium.launch(executable_path=executable, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def new_context(browser: Browser) -> Iterator[NewContext]:
    """Makes browser sessions of their own. What their pages complain about fails the test at its end."""
    contexts: list[BrowserContext] = []
    complaints: list[str] = []

    def make(**options: Any) -> BrowserContext:
        context = browser.new_context(**options)
        context.on("console", lambda message: complaints.extend(_complaint(message)))
        context.on("weberror", lambda error: complaints.append(str(error.error)))
        contexts.append(context)
        return context

    yield make
    for context in contexts:
        context.close()
    assert complaints == []


@pytest.fixture
def page(new_context: NewContext) -> Page:
    return new_context().new_page()


def _complaint(message: ConsoleMessage) -> list[str]:
    """Errors and warnings, violations of the content security policy among them; not a status a test provoked."""
    provoked = "Failed to load resource" in message.text
    return [message.text] if message.type in ("error", "warning") and not provoked else []
