"""Providers on this machine and a browser, for every test that asks for them."""

from main.tests.browser import browser, new_context, page
from main.tests.memory import channel, journal, new_run, quick_retries, run
from main.tests.providers import gemini, tavily

__all__ = [
    "browser",
    "channel",
    "gemini",
    "journal",
    "new_context",
    "new_run",
    "page",
    "quick_retries",
    "run",
    "tavily",
]
