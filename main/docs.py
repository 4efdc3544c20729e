"""The project's own documents: README.md and docs/*.md, as pages of this site and as passages to search."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from markdown_it.token import Token


@dataclass(frozen=True)
class Passage:
    """What stands below one heading, as plain text with a line per block; `slug` is the heading's id."""

    title: str
    slug: str
    text: str


@dataclass(frozen=True)
class Page:
    """A document, shown at /docs/<name>/."""

    name: str
    path: Path
    title: str
    markdown: str
    passages: tuple[Passage, ...]

    @property
    def address(self) -> str:
        return f"/docs/{self.name}/"


def pages() -> list[Page]:
    """Return all documents, README first."""
    return [_read(path, path.stat().st_mtime_ns) for path in _paths() if path.is_file()]


def page(name: str) -> Page | None:
    """Return the document of that name: "readme", or the name of a file in docs/ without its ending."""
    return next((page for page in pages() if page.name == name), None)


def slugify_heading(heading: str) -> str:
    """Return the id of a heading: `POST /start-task/` becomes post-start-task, as on GitHub."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")


class HeadingIds:
    """Gives each heading of one page its id; the second of the same name gets a number."""

    def __init__(self) -> None:
        self._taken = Counter[str]()

    def take(self, heading: "Token") -> str:
        slug = slugify_heading(plain_text(heading))
        self._taken[slug] += 1
        return slug if self._taken[slug] == 1 else f"{slug}-{self._taken[slug] - 1}"


def plain_text(inline: "Token") -> str:
    """Return the text of an inline token without its marks: **bold** becomes bold, a line break a space."""
    return "".join(
        " " if child.type in ("softbreak", "hardbreak") else child.content
        for child in inline.children or []
        if child.type != "html_inline"
    )


def _paths() -> list[Path]:
    from django.conf import settings

    return [settings.BASE_DIR / "README.md", *sorted((settings.BASE_DIR / "docs").glob("*.md"))]


@lru_cache(maxsize=256)
def _read(path: Path, _modified: int) -> Page:
    """Read a document again only where its file has changed."""
    markdown = path.read_text(encoding="utf-8")
    passages = tuple(_passages(markdown))
    title = next((passage.title for passage in passages if passage.slug), path.stem)
    return Page(path.stem.lower(), path, title, markdown, passages)


def _passages(markdown: str) -> Iterator[Passage]:
    from main.markdown import parse

    ids, title, slug, section = HeadingIds(), "", "", list["Token"]()
    tokens = parse(markdown)
    for index, token in enumerate(tokens):
        if token.type != "heading_open":
            section.append(token)
            continue
        yield from _passage(title, slug, section)
        heading = tokens[index + 1]
        title, slug, section = plain_text(heading), ids.take(heading), []
    yield from _passage(title, slug, section)


def _passage(title: str, slug: str, section: list["Token"]) -> Iterator[Passage]:
    # The text of the heading itself is the first inline token after it.
    tokens = section[1:] if slug else section
    if slug or tokens:
        yield Passage(title, slug, "\n".join(_lines(tokens)))


def _lines(tokens: Iterable["Token"]) -> Iterator[str]:
    row: list[str] | None = None
    for token in tokens:
        if token.type == "tr_open":
            row = []
        elif token.type == "tr_close" and row is not None:
            yield " – ".join(cell for cell in row if cell)
            row = None
        elif token.type == "inline" and row is not None:
            row.append(plain_text(token))
        elif token.type == "inline":
            yield plain_text(token)
        elif token.type in ("fence", "code_block"):
            yield from token.content.splitlines()
