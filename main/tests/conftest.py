"""Providers on this machine and a browser, for every test that asks for them."""

from main.tests.browser import browser, new_context, page
from main.tests.memory import channel, journal
from main.tests.platform import platform, visitor
from main.tests.providers import gemini, tavily

__all__ = ["browser", "channel", "gemini", "journal", "new_context", "page", "platform", "tavily", "visitor"]
