"""Web search for flows: Tavily where there is a key, else demo search over the project's own documents.

hits = run.step("Search the web", search, question)
"""

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict

if TYPE_CHECKING:
    from langchain_core.tools import BaseTool

MAX_HITS = 5
# Characters of a passage that demo search returns.
PASSAGE_LENGTH = 500
# Characters; Tavily refuses a longer query.
TAVILY_QUERY_LENGTH = 400


class Hit(TypedDict):
    """A place that speaks of what was asked. `content` is plain text."""

    url: str
    title: str
    content: str


class SearchDescription(NamedTuple):
    """What pages say about the search."""

    name: str
    demo: bool
    note: str


def search(question: str) -> list[Hit]:
    """Return up to five hits, the best first; none is an answer too.

    The search is a LangChain tool, so that callbacks see it: `tavily_search_results_json` or `demo_search`.
    """
    hits: list[Hit] = _tool().invoke({"query": question})
    return hits


def describe_search() -> SearchDescription:
    """Describe the search without loading it."""
    from django.conf import settings
    from django.utils.translation import gettext as _

    if settings.TAVILY_API_KEY:
        return SearchDescription("Tavily", demo=False, note=_("Searches go to Tavily."))
    note = _(
        "No web search is set up, so searches look through this project's own documents. Set TAVILY_API_KEY."
    )
    return SearchDescription("Demo search", demo=True, note=note)


def _tool() -> "BaseTool":
    from django.conf import settings

    if settings.TAVILY_API_KEY:
        return _tavily_tool(
            settings.TAVILY_API_KEY, settings.TAVILY_BASE_URL or None, settings.PROVIDER_TIMEOUT
        )
    return _demo_tool()


# Tavily


@lru_cache(maxsize=8)
def _tavily_tool(key: str, base_url: str | None, timeout: float) -> "BaseTool":
    from langchain_core.tools import StructuredTool
    from requests import Response, Session
    from tavily import TavilyClient

    def raise_for_status(response: Response, **_: Any) -> None:
        response.raise_for_status()

    # Tavily's own errors lose the status and Retry-After; requests' keep both.
    session = Session()
    session.hooks["response"].append(raise_for_status)
    client = TavilyClient(key, api_base_url=base_url, session=session)

    def search_tavily(query: str) -> list[Hit]:
        answer = client.search(_cut(query, TAVILY_QUERY_LENGTH), max_results=MAX_HITS, timeout=timeout)
        return [
            Hit(url=result["url"], title=result.get("title") or "", content=result.get("content") or "")
            for result in answer["results"]
        ]

    return StructuredTool.from_function(
        search_tavily, name="tavily_search_results_json", description="Search the web with Tavily."
    )


# Demo search


@lru_cache(maxsize=1)
def _demo_tool() -> "BaseTool":
    from langchain_core.tools import StructuredTool

    return StructuredTool.from_function(
        _search_documents, name="demo_search", description="Search the documents of this project."
    )


def _search_documents(query: str) -> list[Hit]:
    """Search README.md and docs/*.md: passages with all the words, or, where there are none, with any."""
    from main import docs

    passages = [(page, passage) for page in docs.pages() for passage in page.passages]
    titles = [passage.title for _, passage in passages]
    texts = [passage.text for _, passage in passages]
    found = _rank(ALL_WORDS, query, titles, texts) or _rank(ANY_WORD, query, titles, texts)
    return [
        Hit(
            url=page.address + (f"#{passage.slug}" if passage.slug else ""),
            title=page.title if passage.title == page.title else f"{page.title} › {passage.title}",
            content=_cut(passage.text or passage.title, PASSAGE_LENGTH),
        )
        for page, passage in (passages[index - 1] for index in found)
    ]


ALL_WORDS = "websearch_to_tsquery('english', %s)"
ANY_WORD = "replace(plainto_tsquery('english', %s)::text, '&', '|')::tsquery"
# The passages are few, and come as parameters: no table has to follow the files.
RANK = """
SELECT place
FROM (
    SELECT
        place,
        setweight(to_tsvector('english', title), 'A') || setweight(to_tsvector('english', body), 'B')
    FROM unnest(%s::text[], %s::text[]) WITH ORDINALITY AS given (title, body, place)
) AS passage (place, vector), (SELECT {wanted}) AS query (wanted)
WHERE vector @@ wanted
ORDER BY ts_rank(vector, wanted, 1) DESC, place
LIMIT %s
"""


def _rank(wanted: str, query: str, titles: list[str], texts: list[str]) -> list[int]:
    """Return the places, from 1, of the passages that match, the best first."""
    from django.db import connection

    try:
        with connection.cursor() as cursor:
            cursor.execute(RANK.format(wanted=wanted), [titles, texts, query.replace("\x00", " "), MAX_HITS])
            return [place for (place,) in cursor.fetchall()]
    finally:
        # Flows run in threads that Django knows nothing of; each would keep a connection for ever.
        if not connection.in_atomic_block:
            connection.close()


def _cut(text: str, length: int) -> str:
    """Shorten text at a space."""
    if len(text) <= length:
        return text
    return re.sub(r"\s+\S*$", "", text[: length - 1]) + "…"
