"""What the server says of failures, in the language of who reads it elsewhere than on the page.

Such sentences are stored in English, because all who watch are told the same. Those that the page knows (see
static/js/sentences.js) are in its catalogue, and looked up there.
"""

import re
from functools import cache
from typing import Any

from django.conf import settings
from django.utils.translation import get_language
from django.utils.translation.trans_real import DjangoTranslation

# Longer ones are a flow's own.
MAX_KNOWN = 1000
PLACE = re.compile(r"%\\\((\w+)\\\)s")


def translated(sentence: str) -> str:
    """Return a sentence in the language that is active; one that is not known as it is."""
    if len(sentence) > MAX_KNOWN:
        return sentence
    for pattern, translation in _known(get_language() or settings.LANGUAGE_CODE):
        if found := pattern.fullmatch(sentence):
            return translation % {name: translated(text) for name, text in found.groupdict().items()}
    return sentence


@cache
def _known(language: str) -> list[tuple[re.Pattern[str], str]]:
    """Return the page's sentences, and names that stand in them, with their translations.

    Those that leave the least open come first.
    """
    folders = [str(folder) for folder in settings.LOCALE_PATHS]
    found: Any = DjangoTranslation(language, domain="djangojs", localedirs=folders)
    sentences = {
        text: translation
        for text, translation in found._catalog.items()
        if isinstance(text, str) and text and (text.endswith(".") or "%(" not in text)
    }
    closed_first = sorted(sentences, key=lambda text: len(re.sub(r"%\(\w+\)s", "", text)), reverse=True)
    return [(_pattern(text), _template(text, sentences[text])) for text in closed_first]


def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(PLACE.sub(r"(?P<\1>.+?)", re.escape(text)), re.DOTALL)


def _template(text: str, translation: str) -> str:
    """Return a translation that can be filled in: where nothing is to be, a percent sign is one."""
    return translation if "%(" in text else translation.replace("%", "%%")
