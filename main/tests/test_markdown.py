"""Markdown to HTML: what models write can do no harm, and our documents link to each other."""

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from main import docs
from main.markdown import TAGS, render_document, render_markdown

HARMFUL = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<svg/onload=alert(1)>",
    "<iframe src='https://evil.example'></iframe>",
    "<a href='javascript:alert(1)'>x</a>",
    "<style>body{display:none}</style>",
    "<form action='https://evil.example'><input name=password></form>",
    "<b onmouseover=alert(1)>x</b>",
    "<base href='https://evil.example/'>",
    "<meta http-equiv=refresh content='0;url=https://evil.example'>",
    "<math><mtext><table><mglyph><style><img src=x onerror=alert(1)>",
    "[x](javascript:alert(1))",
    "[x](JaVaScRiPt:alert(1))",
    "[x](java\nscript:alert(1))",
    "[x](&#106;avascript:alert(1))",
    "[x](data:text/html;base64,PHNjcmlwdD5hbGVydCgxKTwvc2NyaXB0Pg==)",
    "[x](vbscript:msgbox(1))",
    "[x](file:///etc/passwd)",
    "[x]: javascript:alert(1)\n\n[x]",
    "<javascript:alert(1)>",
    "![x](https://evil.example/pixel.png?who=you)",
    "![x](javascript:alert(1))",
    "![x](data:image/svg+xml;base64,PHN2Zy8+)",
    '![" onerror="alert(1)](x)',
    '[x](https://example.org "title\\" onclick=alert(1) x=\\"")',
    "`<script>alert(1)</script>`",
    "```<script>\nalert(1)\n```",
    '```html" onclick="alert(1)\nx\n```',
    "| a |\n|:-:|\n| <script>alert(1)</script> |",
    "<!-- --><script>alert(1)</script><!-- -->",
]


class Elements(HTMLParser):
    """The elements of some HTML, as a browser would read them: (tag, attributes)."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def assert_harmless(html: str, also: frozenset[str] = frozenset()) -> None:
    for tag, attributes in Elements(html).found:
        assert tag in TAGS, html
        assert attributes.keys() <= {"href", "title", "rel", "start"} | also, html
        scheme, colon, _ = (attributes.get("href") or "").partition(":")
        assert not colon or scheme in ("http", "https", "mailto"), html
    assert "<!--" not in html


@pytest.mark.parametrize("text", HARMFUL)
def test_what_a_model_writes_can_do_no_harm(text: str) -> None:
    assert_harmless(render_markdown(text))


@pytest.mark.parametrize("text", HARMFUL)
def test_documents_are_cleaned_as_well(text: str) -> None:
    html = render_document(text)
    assert "src" not in html.replace("onerror", "")
    assert_harmless(html.replace("<img", "<p"), also=frozenset({"alt", "id"}))


def test_marks_become_html() -> None:
    html = render_markdown("# A\n\n**b** *c* ~~d~~ `e`\n\n- f\n\n3. g\n\n> h\n\n| i |\n| --- |\n| j |\n\n---")
    for part in [
        "<h1>A</h1>",
        "<strong>b</strong>",
        "<em>c</em>",
        "<s>d</s>",
        "<code>e</code>",
        "<li>f</li>",
    ]:
        assert part in html
    for part in ['<ol start="3">', "<blockquote>", "<td>j</td>", "<hr>"]:
        assert part in html


def test_the_lines_of_a_poem_stay_lines() -> None:
    assert render_markdown("One,\ntwo.") == "<p>One,<br>\ntwo.</p>\n"


def test_html_is_shown_as_the_text_it_is() -> None:
    assert render_markdown("Use <b> & <i>.") == "<p>Use &lt;b&gt; &amp; &lt;i&gt;.</p>\n"


def test_links_do_not_tell_where_they_are_followed_from() -> None:
    for address in ("https://example.org/a?b=1&c=2", "http://example.org", "mailto:alice@example.org"):
        html = render_markdown(f"[x]({address})")
        assert f'href="{address.replace("&", "&amp;")}"' in html
        assert 'rel="noopener nofollow noreferrer"' in html


def test_citations_of_our_own_pages_are_links() -> None:
    assert 'href="/docs/readme/#deployment"' in render_markdown("Yes. [[1]](</docs/readme/#deployment>)")


def test_an_image_becomes_what_it_is_called() -> None:
    assert (
        render_markdown("See ![the *tide* <now>](https://example.org/x.png).")
        == "<p>See the *tide* &lt;now&gt;.</p>\n"
    )


def test_deep_nesting_is_no_trouble() -> None:
    for text in (
        ">" * 5000 + "x",
        "[" * 5000,
        "*" * 5000 + "x",
        "- " * 2000,
        "`" * 5000,
        "|" * 3000 + "\n" + "|-" * 3000,
    ):
        assert render_markdown(text)


@pytest.fixture
def documents(settings: Any, tmp_path: Path) -> Path:
    settings.BASE_DIR = tmp_path
    (tmp_path / "docs").mkdir()
    (tmp_path / "README.md").write_text("# Project\n\n## Run it\n\n## `Run` it\n\n## Run *it*\n")
    (tmp_path / "docs" / "events.md").write_text("# Events\n")
    return tmp_path


def test_headings_of_documents_have_the_ids_that_search_links_to(documents: Path) -> None:
    page = docs.page("readme")
    assert page is not None
    ids = re.findall(r'<h\d id="([^"]*)"', render_document(page.markdown))
    assert ids == [passage.slug for passage in page.passages] == ["project", "run-it", "run-it-1", "run-it-2"]


@pytest.mark.parametrize(
    ("link", "href"),
    [
        ("docs/events.md", "/docs/events/"),
        ("./docs/events.md#ids", "/docs/events/#ids"),
        ("events.md", "/docs/events/"),
        ("../README.md#run-it", "/docs/readme/#run-it"),
        ("#run-it", "#run-it"),
        ("/admin/", "/admin/"),
        ("https://example.org/docs/events.md", "https://example.org/docs/events.md"),
    ],
)
def test_links_between_documents_lead_to_their_pages(documents: Path, link: str, href: str) -> None:
    assert f'href="{href}"' in render_document(f"[x]({link})")


@pytest.mark.parametrize("link", ["LICENSE", "main/flows/poem.py", "docs/missing.md", "../../etc/passwd.md"])
def test_a_link_to_a_file_without_a_page_leads_nowhere(documents: Path, link: str) -> None:
    assert "href" not in render_document(f"[x]({link})")


def test_images_of_documents_are_static_files_of_this_site(settings: Any) -> None:
    assert 'src="/static/img/page.png" alt="The page"' in render_document("![The page](static/img/page.png)")
    for source in (
        "https://example.org/badge.svg",
        "//example.org/x.png",
        "docs/x.png",
        "static/../../x.png",
    ):
        assert "src" not in render_document(f"![x]({source})")
        assert "src" not in render_document(f'<img src="{source}">')
