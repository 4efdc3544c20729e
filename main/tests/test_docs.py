"""The documentation names everything there is, and what it shows works."""

import importlib.util
import re
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
from django.conf import settings
from django.core.management import get_commands
from django.test import Client
from django.urls import URLPattern, get_resolver

from main import docs
from main.chat_models import chat_model
from main.events import Event
from main.registry import FLOW_REGISTRY, get_flow
from main.run import Run
from main.tests.memory import Channel, Journal

ALL = "\n".join(page.markdown for page in docs.pages())
OWN_COMMANDS = [name for name, app in get_commands().items() if app == "main"]
# Not of the API: the page itself, and what only the page's scripts ask for.
UNNAMED = {"home", "javascript_catalog"}
NAMED_PATHS = [
    pattern
    for pattern in get_resolver().url_patterns
    if isinstance(pattern, URLPattern) and pattern.name and pattern.name not in UNNAMED
]


@pytest.mark.parametrize("pattern", NAMED_PATHS, ids=lambda pattern: pattern.name)
def test_every_path_is_in_the_api_document(pattern: URLPattern) -> None:
    path = "/" + re.sub(
        r"<\w+:(\w+)>", lambda found: "<name>" if found[1] == "name" else "<id>", str(pattern.pattern)
    )
    api = docs.page("api")
    assert api
    assert path in api.markdown


def test_every_event_is_explained() -> None:
    page = docs.page("how-it-works")
    assert page
    types = get_args(get_type_hints(Event)["type"])
    assert [name for name in types if not re.search(rf"\b{name}\b", page.markdown)] == []


@pytest.mark.parametrize("command", OWN_COMMANDS)
def test_every_command_is_named(command: str) -> None:
    assert f"manage.py {command}" in ALL


def test_every_test_that_a_guarantee_names_is_there() -> None:
    page = docs.page("guarantees")
    assert page
    named = set(re.findall(r"`(test_\w+)`", page.markdown))
    sources = (path.read_text() for path in Path(settings.BASE_DIR).glob("*/tests/test_*.py"))
    there = {name for source in sources for name in re.findall(r"^def (test_\w+)", source, re.MULTILINE)}
    assert len(named) > 20
    assert named - there == set()


def test_every_flow_option_is_explained() -> None:
    from inspect import signature

    from main.registry import flow

    page = docs.page("flows")
    assert page
    assert [name for name in signature(flow).parameters if f"`{name}`" not in page.markdown] == []


def test_the_flow_of_the_readme_runs_as_it_stands(tmp_path: Path) -> None:
    readme = docs.page("readme")
    assert readme
    code = re.search(r"```python\n(.*?)```", readme.markdown, re.DOTALL)
    assert code
    file = tmp_path / "letter.py"
    file.write_text(code[1])
    spec = importlib.util.spec_from_file_location("letter", file)
    assert spec
    assert spec.loader
    try:
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
        channel = Channel()
        run = Run("readme", journal=Journal(), channel=channel)
        inputs = get_flow("letter_flow").validate({"recipient": "Alice"})
        result = get_flow("letter_flow").call(run, lambda: chat_model("demo:"), inputs)
    finally:
        FLOW_REGISTRY.pop("letter_flow", None)
    assert result == channel.text
    assert [event["name"] for event in channel.of("step") if event["state"] == "done"] == [
        "Think of a reason to write",
        "Write",
    ]


@pytest.mark.parametrize("page", docs.pages(), ids=lambda page: page.name)
def test_a_document_is_a_page_whose_links_lead_somewhere(page: docs.Page, client: Client) -> None:
    response = client.get(page.address)
    html = response.content.decode()
    assert response.status_code == 200
    assert "<h1 id=" in html
    for address in re.findall(r'(?:href|src)="(/docs/[^"#]*|/static/[^"]*)', html):
        if address.startswith("/static/"):
            assert (settings.BASE_DIR / address.lstrip("/")).is_file(), address
        else:
            assert client.get(address).status_code == 200, address


def test_a_document_that_is_not_there_is_a_404(client: Client) -> None:
    assert client.get("/docs/nothing/").status_code == 404
