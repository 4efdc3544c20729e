"""Providers on this machine, for every test that asks for them."""

from main.tests.memory import channel, journal, new_run, quick_retries, run
from main.tests.providers import gemini, tavily

__all__ = [
    "channel",
    "gemini",
    "journal",
    "new_run",
    "quick_retries",
    "run",
    "tavily",
]
