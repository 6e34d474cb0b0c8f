"""A report as one HTML file to send: verdicts first, tables, embedded figures.

The file needs nothing beside it: no scripts, no fonts, nothing from the network. It fits a laptop
and a phone, light and dark screens, and paper.
"""

import base64
import dataclasses
import html
import re
from collections.abc import Sequence

from runtime.jsonfiles import Json

STYLE = """
:root { color-scheme: light dark; --text: #1c2126; --soft: #59636e; --back: #fff; --line: #d5dae0;
  --head: #f3f5f7; --pass: #00664a; --fail: #a83d00; --note: #75560a; }
@media (prefers-color-scheme: dark) {
  :root { --text: #e4e8ec; --soft: #a0a9b3; --back: #15191d; --line: #39424b; --head: #20262c;
    --pass: #52c9a1; --fail: #ff9a63; --note: #e8bd55; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 3rem; max-width: 68rem; background: var(--back);
  color: var(--text); font: 16px/1.5 system-ui, sans-serif; overflow-wrap: break-word; }
h1 { margin: 0 0 1rem; font-size: 1.5rem; line-height: 1.25; }
h2 { margin: 2.5rem 0 .75rem; font-size: 1.15rem; }
.verdicts { margin: 0; padding: 0; list-style: none; border-top: 1px solid var(--line); }
.verdicts li { display: flex; gap: .9rem; padding: .55rem 0; border-bottom: 1px solid var(--line); }
.verdicts p { margin: 0; min-width: 0; }
.verdicts .mark { flex: 0 0 3.2rem; }
.mark, td.mark { font-weight: 600; }
.pass { color: var(--pass); } .fail { color: var(--fail); } .note { color: var(--note); }
.scroll { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .7rem; border-bottom: 1px solid var(--line); text-align: left;
  vertical-align: top; }
th { background: var(--head); font-weight: 600; vertical-align: bottom; }
td:first-child { min-width: 8rem; } td.number { white-space: nowrap; }
td.mark { position: sticky; right: 0; background: var(--back); }
figure { margin: 1.5rem 0; }
img { display: block; max-width: 100%; height: auto; background: #fff; border-radius: 4px; }
figcaption, footer { color: var(--soft); font-size: .875rem; }
figcaption { margin-top: .4rem; }
footer { margin-top: 3rem; border-top: 1px solid var(--line); padding-top: .75rem; }
code, pre { font: .8125rem/1.5 ui-monospace, monospace; }
pre { overflow-x: auto; }
footer code { overflow-wrap: anywhere; }
@media (max-width: 30rem) { th, td { padding: .35rem .4rem; } }
@page { margin: 14mm; }
@media print {
  :root { color-scheme: light; --text: #000; --soft: #444; --back: #fff; --line: #bbb;
    --head: #eee; --pass: #00664a; --fail: #a83d00; --note: #75560a; }
  body { max-width: none; padding: 0; font-size: 10pt; }
  .scroll { overflow: visible; }
  table { font-size: 7.5pt; } th, td { padding: .15rem .35rem; }
  td:first-child { min-width: 0; }
  h1, h2 { break-after: avoid; } figure, tr, li { break-inside: avoid; }
  img { max-height: 200mm; }
}
"""
NUMBERS = re.compile(r"[-+−±–<>=()%.,\de\s]*")  # cells that are not broken into lines
MARKS = {True: ("pass", "pass"), False: ("fail", "fail"), None: ("note", "note")}


@dataclasses.dataclass(frozen=True)
class Verdict:
    """One line of the list that a page begins with.

    Attributes:
        name: What is judged, in plain text.
        words: The verdict, in plain text.
        passed: None where it is neither.
    """

    name: str
    words: str
    passed: bool | None = None


@dataclasses.dataclass(frozen=True)
class Picture:
    """A figure of a page.

    Attributes:
        caption: In plain text.
        png: Content of a PNG file.
    """

    caption: str
    png: bytes


def escape_markdown(text: str) -> str:
    """Plain text, such as the name of a folder, for a Markdown document: shown as it is."""
    return re.sub(r"([!-/:-@\[-`{-~])", r"\\\1", " ".join(text.split()))


def render_markdown(text: str) -> str:
    """Markdown with tables as HTML.

    HTML, links and images in it are shown as text: whatever a name holds, nothing is fetched.
    """
    from markdown_it import MarkdownIt

    renderer = MarkdownIt("commonmark", {"html": False}).enable("table")
    renderer.disable(["image", "link", "autolink", "reference"])
    tokens = renderer.parse(text)
    for cell, inner in zip(tokens, tokens[1:], strict=False):
        if cell.type == "td_open" and inner.content.lower() in ("pass", "fail"):
            cell.attrSet("class", f"mark {inner.content.lower()}")
        elif cell.type == "td_open" and NUMBERS.fullmatch(inner.content):
            cell.attrSet("class", "number")
    content = renderer.renderer.render(tokens, renderer.options, {})
    content = content.replace("<table>", '<div class="scroll" tabindex="0"><table>')
    return content.replace("</table>", "</table></div>")


def page(
    title: str, verdicts: Sequence[Verdict], text: str, pictures: Sequence[Picture], made_with: Json
) -> str:
    """A whole page.

    Args:
        title: In plain text.
        verdicts: What comes first.
        text: Of the body, Markdown.
        pictures: Figures, in order.
        made_with: From `provenance.collect`.
    """
    body = [f"<h1>{html.escape(title)}</h1>"]
    if verdicts:
        body += ['<ul class="verdicts">', *map(_verdict, verdicts), "</ul>"]
    body += ["<h2>Results</h2>", render_markdown(text)]
    if pictures:
        body += ["<h2>Figures</h2>", *map(_figure, pictures)]
    document = [
        "<!DOCTYPE html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{html.escape(title)}</title>",
        f"<style>{STYLE}</style></head><body>",
        *(*body, _footer(made_with), "</body></html>"),
    ]
    # a name that is no text, which a file system allows, cannot be written as UTF-8
    return "\n".join(document).encode("utf-8", "replace").decode() + "\n"


def _verdict(verdict: Verdict) -> str:
    mark, word = MARKS[verdict.passed]
    name, words = html.escape(verdict.name), html.escape(verdict.words)
    return f'<li><span class="mark {mark}">{word}</span><p><b>{name}</b>: {words}</p></li>'


def _figure(picture: Picture) -> str:
    data, caption = base64.b64encode(picture.png).decode(), html.escape(picture.caption)
    image = f'<img alt="{caption}" src="data:image/png;base64,{data}">'
    return f"<figure>{image}<figcaption>{caption}</figcaption></figure>"


def _footer(made_with: Json) -> str:
    """The command, versions and commit."""
    versions = ", ".join(f"{name} {number}" for name, number in made_with["versions"].items())
    commit = made_with.get("git_commit")
    made = f"{versions}; commit {commit[:12]}" if commit else versions
    command = html.escape(made_with["command"])
    return f"<footer><p>Made with <code>{command}</code></p><p>{html.escape(made)}</p></footer>"
