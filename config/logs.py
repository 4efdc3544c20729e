"""How log lines look: one line of text, in which no key stands even where a provider's error repeats it."""

import logging

from django.conf import settings

SECRETS = ("SECRET_KEY", "GEMINI_API_KEY", "TAVILY_API_KEY")
# Shorter ones would blank out ordinary words.
SHORTEST_SECRET = 6


class MaskingFormatter(logging.Formatter):
    """Formats as usual, traces included, and then blanks the values of the settings named in SECRETS."""

    def format(self, record: logging.LogRecord) -> str:
        line = super().format(record)
        for name in SECRETS:
            secret = getattr(settings, name, "")
            if len(secret) >= SHORTEST_SECRET:
                line = line.replace(secret, f"[{name}]")
        return line
