"""Markdown to HTML that is safe to put into a page: what models write, and our own documents."""

import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from main import docs

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.token import Token

TAGS = frozenset(
    {"a", "blockquote", "br", "code", "del", "em", "hr", "li", "ol", "p", "pre", "s", "strong", "ul"}
    | {"h1", "h2", "h3", "h4", "h5", "h6", "table", "thead", "tbody", "tr", "th", "td"}
)
HEADINGS = ("h1", "h2", "h3", "h4", "h5", "h6")
SCHEMES = frozenset({"http", "https", "mailto"})
REL = "noopener nofollow noreferrer"


def render_markdown(text: str) -> str:
    """Return HTML for untrusted text: no HTML of its own, no images, links to http, https and mailto only."""
    import nh3

    html: str = _untrusted().render(text)
    return nh3.clean(
        html,
        tags=TAGS,
        attributes={"a": {"href", "title"}, "ol": {"start"}},
        url_schemes=SCHEMES,
        link_rel=REL,
    )


def render_document(text: str) -> str:
    """Return HTML for a document of this project.

    Headings have ids, links to other documents lead to their pages, and images are shown where they are
    static files of this site.
    """
    import nh3

    tokens = parse(text)
    _give_ids(tokens)
    html: str = _parser().renderer.render(tokens, _parser().options, {})
    return nh3.clean(
        html,
        tags=TAGS | {"img"},
        attributes={"a": {"href", "title"}, "ol": {"start"}, "img": {"src", "alt", "width", "height"}}
        | {heading: {"id"} for heading in HEADINGS},
        attribute_filter=_own_address,
        url_schemes=SCHEMES,
        link_rel=REL,
    )


def parse(text: str) -> list["Token"]:
    """Return the Markdown tokens of a document of this project."""
    tokens: list[Token] = _parser().parse(text)
    return tokens


@lru_cache(maxsize=1)
def _parser() -> "MarkdownIt":
    from markdown_it import MarkdownIt

    return MarkdownIt("commonmark").enable(["table", "strikethrough"])


@lru_cache(maxsize=1)
def _untrusted() -> "MarkdownIt":
    from markdown_it import MarkdownIt

    parser = MarkdownIt("commonmark", {"html": False, "breaks": True}).enable(["table", "strikethrough"])
    parser.add_render_rule("image", _image_as_text)
    return parser


def _image_as_text(_self: Any, tokens: Sequence["Token"], index: int, *_: Any) -> str:
    """Show what an image is called: loading one from elsewhere would tell that place who is reading."""
    from markdown_it.common.utils import escapeHtml

    return escapeHtml(tokens[index].content)


def _give_ids(tokens: Sequence["Token"]) -> None:
    ids = docs.HeadingIds()
    for token, following in pairwise(tokens):
        if token.type == "heading_open":
            token.attrSet("id", ids.take(following))


def _own_address(tag: str, attribute: str, value: str) -> str | None:
    match tag, attribute:
        case "a", "href":
            return _document_link(value)
        case "img", "src":
            return _static_image(value)
        case _:
            return value


def _document_link(href: str) -> str | None:
    """Lead from docs/events.md#ids to /docs/events/#ids; a link to a file that has no page leads nowhere."""
    if re.match(r"[a-zA-Z][a-zA-Z0-9+.-]*:|[/#]", href):
        return href
    path, _, heading = href.partition("#")
    name = re.fullmatch(r"(?:\.{1,2}/)*(?:docs/)?([\w-]+)\.md", path)
    page = docs.page(name[1].lower()) if name else None
    return page.address + (f"#{heading}" if heading else "") if page else None


def _static_image(source: str) -> str | None:
    from django.conf import settings

    path = re.fullmatch(r"(?:\.{1,2}/)*static/([\w./-]+)", source)
    return f"{settings.STATIC_URL}{path[1]}" if path and ".." not in path[1] else None
