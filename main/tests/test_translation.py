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

CATALOGUES = {
    "django": ("main", "accounts", "notifications", "ops", "config", "templates"),
    "djangojs": ("static/js",),
}
LOCALE = Path(settings.BASE_DIR) / "locale/es/LC_MESSAGES"
IN_TEMPLATES = re.compile(r"""{% translate (?:"([^"]+)"|'([^']+)')""")
IN_SCRIPTS = re.compile(r'n?gettext(?:_noop)?\(\s*"((?:[^"\\]|\\.)+)"')
SENTENCES = Path(settings.BASE_DIR) / "static/js/sentences.js"
# Where sentences are written that snapshots carry to the page.
TELLING = ("errors", "events", "models", "tracing", "engine", "confinement", "run", "gemini", "chat_models")
# Meant for whoever writes a flow, and shown as they are.
FOR_AUTHORS = re.compile("^(A step was begun|The step “|What the step “)")


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


@pytest.mark.parametrize("module", TELLING)
def test_what_a_snapshot_says_is_known_to_the_page(module: str) -> None:
    known = {re.sub(r"%\(\w+\)s", "%s", text) for text in IN_SCRIPTS.findall(SENTENCES.read_text())}
    source = (Path(settings.BASE_DIR) / f"main/{module}.py").read_text()
    told = {text for text in told_in(ast.parse(source)) if not FOR_AUTHORS.match(text)}
    assert told
    assert told - known == set()


def test_what_snapshots_say_is_found() -> None:
    source = '''
class Snapshot:
    status: str = "Waiting"
def say(name, run):
    """Say it."""
    snapshot.status = f"{name} …"[:9]
    run.status(f"Using {name} …")
    run.log(f"✗ {name} failed.")
    send({"state": "FAILURE", "status": "Gone"})
    raise FlowError(f"The {name} is " "gone.", type="gone")
'''
    assert set(told_in(ast.parse(source))) == {
        "Waiting",
        "Using %s …",
        "✗ %s failed.",
        "Gone",
        "The %s is gone.",
    }


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


def told_in(tree: ast.Module) -> Iterator[str]:
    """Find the statuses, error messages and timeline lines in Python, with %s for what is filled in."""
    for node in ast.walk(tree):
        match node:
            case ast.Call(
                func=ast.Name(id="Failure" | "FlowError") | ast.Attribute(attr="status" | "log" | "append")
            ):
                yield from _sentences(*node.args)
            case ast.keyword(arg="message", value=value):
                yield from _sentences(value)
            case ast.Assign(targets=[ast.Name(id="message") | ast.Attribute(attr="status")], value=value):
                yield from _sentences(value)
            case ast.AnnAssign(target=ast.Name(id="status"), value=ast.expr() as value):
                yield from _sentences(value)
            case ast.Dict():
                pairs = zip(node.keys, node.values, strict=True)
                yield from _sentences(
                    *(
                        value
                        for key, value in pairs
                        if isinstance(key, ast.Constant) and key.value == "status"
                    )
                )


def _sentences(*nodes: ast.expr) -> Iterator[str]:
    for node in nodes:
        text = _template(node)
        if re.search(r"[^\W\d_]", text.replace("%s", "")) and not re.fullmatch("[a-z_]+", text):
            yield text


def _template(node: ast.expr) -> str:
    match node:
        case ast.Constant(value=str() as text):
            return text
        case ast.JoinedStr(values=parts):
            return "".join(_template(part) for part in parts)
        case ast.FormattedValue():
            return "%s"
        case ast.Subscript(value=value):
            return _template(value)
    return ""
