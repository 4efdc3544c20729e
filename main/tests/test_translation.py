"""Every string that people read has a Spanish translation, and what is compiled is what is written.

After a change of strings: `manage.py makemessages -l es --ignore .venv --no-obsolete --add-location file --no-wrap`,
the same with `-d djangojs`, translate what is empty, `manage.py compilemessages -l es --ignore .venv`.
"""

import ast
import gettext
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.conf import settings

CATALOGUES = {"django": ("main", "accounts", "config", "templates"), "djangojs": ("static/js",)}
LOCALE = Path(settings.BASE_DIR) / "locale/es/LC_MESSAGES"
IN_TEMPLATES = re.compile(r"""{% translate (?:"([^"]+)"|'([^']+)')""")
IN_SCRIPTS = re.compile(r'n?gettext\(\s*"((?:[^"\\]|\\.)+)"')


@pytest.mark.parametrize("name", CATALOGUES)
def test_every_marked_string_is_in_the_catalogue(name: str) -> None:
    marked = {text for folder in CATALOGUES[name] for text in strings(Path(settings.BASE_DIR) / folder)}
    written = re.findall(r'^msgid (".+")$', (LOCALE / f"{name}.po").read_text(), re.MULTILINE)
    assert marked
    assert marked - {ast.literal_eval(text) for text in written} == set()


@pytest.mark.parametrize("name", CATALOGUES)
def test_every_entry_is_translated_and_compiled(name: str) -> None:
    with (LOCALE / f"{name}.mo").open("rb") as compiled:
        translations = gettext.GNUTranslations(compiled)
    written = (LOCALE / f"{name}.po").read_text()
    assert 'msgstr ""' not in written.split("\n\n", 1)[1]
    for text, translation in re.findall(r'^msgid (".+")\nmsgstr (".+")$', written, re.MULTILINE):
        assert translations.gettext(ast.literal_eval(text)) == ast.literal_eval(translation)


def strings(folder: Path) -> Iterator[str]:
    """Find what is marked for translation below a folder, in Python, templates and scripts."""
    for path in folder.rglob("*.*"):
        if "tests" in path.parts:
            continue
        match path.suffix:
            case ".py":
                yield from _in_python(path.read_text())
            case ".html":
                yield from (one or other for one, other in IN_TEMPLATES.findall(path.read_text()))
            case ".js":
                yield from IN_SCRIPTS.findall(path.read_text())


def _in_python(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id in ("_", "ngettext")
        ):
            text = node.args[0]
            if isinstance(text, ast.Constant) and isinstance(text.value, str):
                yield text.value
