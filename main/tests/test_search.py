"""Demo search: PostgreSQL's full-text search over the project's documents."""

import json
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from django.db import connection, transaction
from langchain_core.runnables import RunnableLambda

from main import docs
from main.search import describe_search, search
from main.tests.memory import ToolWatcher

README = """# API-CTM

It runs flows.

## Add your own flow

A flow is a function. **Save** the file, and the page shows it.

## Deployment

Docker Compose starts the backend and the workers. Take a snapshot of the data first.
"""
EVENTS = """# Events

Watchers hold a connection.

## Snapshots

| event | meaning |
| --- | --- |
| snapshot | everything so far |

```
curl -N /task-status/1/
```

## Snapshots

A second heading of that name, about reconnecting.
"""

# A search gives its connection back, which a test inside one transaction would not survive.
pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def documents(settings: Any, tmp_path: Path) -> Path:
    settings.TAVILY_API_KEY = ""
    settings.BASE_DIR = tmp_path
    (tmp_path / "docs").mkdir()
    (tmp_path / "README.md").write_text(README)
    (tmp_path / "docs" / "events.md").write_text(EVENTS)
    return tmp_path


def test_a_question_finds_the_passage_that_answers_it() -> None:
    [hit] = search("How do I add my own flow?")
    assert hit == {
        "url": "/docs/readme/#add-your-own-flow",
        "title": "API-CTM › Add your own flow",
        "content": "A flow is a function. Save the file, and the page shows it.",
    }


def test_words_match_in_other_forms() -> None:
    assert [hit["url"] for hit in search("deployments")] == ["/docs/readme/#deployment"]


def test_where_no_passage_has_all_words_any_will_do() -> None:
    urls = [hit["url"] for hit in search("workers that reconnect a zeppelin")]
    assert set(urls) == {"/docs/readme/#deployment", "/docs/events/#snapshots-1"}


def test_a_match_in_a_heading_comes_first() -> None:
    urls = [hit["url"] for hit in search("snapshot")]
    assert set(urls[:2]) == {"/docs/events/#snapshots", "/docs/events/#snapshots-1"}
    assert urls[2:] == ["/docs/readme/#deployment"]


def test_table_and_code_are_found_as_plain_text() -> None:
    assert "snapshot – everything so far" in search("everything so far")[0]["content"]
    assert "curl -N /task-status/1/" in search("curl")[0]["content"]


def test_a_long_passage_is_cut_at_a_word(documents: Path) -> None:
    (documents / "docs" / "long.md").write_text("# Long\n\n" + "tide " * 500)
    [hit] = search("tide")
    assert len(hit["content"]) <= 500
    assert hit["content"].endswith("tide…")


def test_a_changed_file_is_read_again(documents: Path) -> None:
    assert search("zeppelin") == []
    (documents / "docs" / "new.md").write_text("# Airships\n\nA zeppelin flies.")
    assert search("zeppelin")[0]["url"] == "/docs/new/#airships"


@pytest.mark.parametrize(
    "question", ["", "the", "'\"\\ & | ! <-> :* (", "a\x00b", "%s %(x)s", "https://x.example/a?b=1&c=2"]
)
def test_no_question_is_too_strange(question: str) -> None:
    assert isinstance(search(question), list)


def test_no_documents_no_hits(documents: Path) -> None:
    (documents / "README.md").unlink()
    (documents / "docs" / "events.md").unlink()
    assert search("flow") == []


def test_a_thread_keeps_no_connection() -> None:
    left: list[Any] = []

    def look() -> None:
        search("flow")
        left.append(connection.connection)

    thread = Thread(target=look)
    thread.start()
    thread.join()
    assert left == [None]


def test_a_transaction_around_a_search_goes_on() -> None:
    with transaction.atomic():
        assert search("flow")
        assert search("flow")


def test_callbacks_see_the_tool_by_its_name() -> None:
    watcher = ToolWatcher()
    hits = RunnableLambda(search).invoke("flow", {"callbacks": [watcher]})
    assert watcher.seen == ["demo_search", hits]
    assert json.loads(json.dumps(hits)) == hits


def test_it_is_described_as_a_demo() -> None:
    assert describe_search().demo
    assert "TAVILY_API_KEY" in describe_search().note


def test_pages_have_names_titles_and_unique_heading_ids() -> None:
    assert [(page.name, page.title, page.address) for page in docs.pages()] == [
        ("readme", "API-CTM", "/docs/readme/"),
        ("events", "Events", "/docs/events/"),
    ]
    page = docs.page("events")
    assert page is not None
    assert [passage.slug for passage in page.passages] == ["events", "snapshots", "snapshots-1"]
    assert page.markdown == EVENTS
    assert docs.page("../README") is None


@pytest.mark.parametrize(
    ("heading", "slug"),
    [
        ("Add your own flow", "add-your-own-flow"),
        ("POST /start-task/", "post-start-task"),
        ("What's new in 1.2?", "whats-new-in-12"),
        ("Guía de uso", "guía-de-uso"),
    ],
)
def test_slugs_are_those_of_github(heading: str, slug: str) -> None:
    assert docs.slugify_heading(heading) == slug
