"""A page to send: whole in itself, safe with any name, verdicts first."""

import base64
import html.parser

import pytest

from runtime import html as pages
from runtime.html import Verdict

MADE_WITH = {
    "command": "evaluate.py --runs <b>",
    "versions": {"numpy": "2"},
    "git_commit": "a" * 40,
}
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
NASTY = (
    "<script>alert(1)</script>",
    "![x](http://example.org/x.png)",
    "[x](javascript:alert(1))",
    "<http://example.org>",
    "a\"b'c & d",
    "a*b*c _d_ `e` ~f~",
    "a|b",
    "\udcff",
    "# a\n- b",
)


class Reader(html.parser.HTMLParser):
    """Tags, what they fetch, and the text of a page."""

    VOID = {"meta", "img", "br", "hr"}

    def __init__(self, page):
        super().__init__()
        self.tags, self.sources, self.text, self.open = [], [], "", []
        self.feed(page)
        assert self.open == [], "tags are not closed"

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.open += [] if tag in self.VOID else [tag]
        self.sources += [value for name, value in attrs if name in ("src", "href", "action")]
        assert not any(name.startswith("on") for name, _ in attrs)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data if self.open[-1:] != ["style"] else ""


def make(name="a run"):
    cell = pages.escape_markdown(name)
    text = f"Words, **{cell}**.\n\n| run | |\n|---|---|\n| {cell} | FAIL |\n| other | pass |\n"
    figures = [pages.Picture(f"caption {name}", PNG)]
    verdicts = [Verdict(name, "3 checks failed", False), Verdict("other", "all pass", True)]
    return pages.page(f"Of {name}", verdicts, text, figures, MADE_WITH)


def test_a_page_is_whole_in_itself_and_begins_with_the_verdicts(tmp_path):
    page = make()
    read = Reader(page)
    assert not {"script", "link", "iframe"} & set(read.tags)
    assert "url(" not in page and "@import" not in page
    (source,) = read.sources
    assert base64.b64decode(source.removeprefix("data:image/png;base64,")) == PNG
    order = ["Of a run", "3 checks failed", "all pass", "Results", "Words", "caption", "numpy 2"]
    places = [read.text.index(words) for words in order]
    assert places == sorted(places)
    assert page.count('<td class="mark fail">') == page.count('<td class="mark pass">') == 1


@pytest.mark.parametrize("name", NASTY)
def test_any_name_is_shown_as_it_is_and_does_nothing(tmp_path, name):
    page = make(name)
    page.encode()
    read = Reader(page)
    assert read.tags == Reader(make()).tags
    assert len(read.sources) == 1
    shown = " ".join(name.split()).encode("utf-8", "replace").decode()
    # title, heading, verdict, sentence, table, caption
    assert " ".join(read.text.split()).count(shown) == 6


def test_markdown_does_not_reach_outside():
    text = "\n\n".join(name for name in NASTY if "\udcff" not in name)
    read = Reader(pages.render_markdown(text) + "<p></p>")
    assert not {"a", "img", "script"} & set(read.tags) and read.sources == []
