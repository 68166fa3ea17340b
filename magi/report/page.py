"""One HTML page in one file: text, tables, pictures and videos, all inside it, nothing loaded from anywhere.

Every function takes plain text, which it escapes, or `Html`, which it trusts, and returns `Html`; a page is their
composition. Knows HTML and nothing of what is reported.
"""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Iterable, Sequence
from importlib.resources import files

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; media-src data:; base-uri 'none'"
"""What a browser may load for a page: what is in it."""


LONG = 40  # characters of a cell of a table above which it is a sentence


class Html(str):
    """Markup, as opposed to text that must be escaped to become markup."""

    __slots__ = ()


def markup(content: str) -> Html:
    """`Html` as it is; text escaped, with what stands between `backquotes` set as code."""
    if isinstance(content, Html):
        return content
    return Html(re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(content)))


def join(parts: Iterable[str]) -> Html:
    """One after another."""
    return Html("\n".join(map(markup, parts)))


def page(title: str, *sections: Html, footer: str = "") -> Html:
    """A whole document; phones and laptops, light and dark are the style sheet's business."""
    style = files("magi.report").joinpath("style.css").read_text(encoding="utf-8")
    return Html(
        f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<title>{markup(title)}</title>
<link rel="icon" href="data:,">
<style>
{style}</style>
</head>
<body>
<main>
{join(sections)}
</main>
<footer>{markup(footer)}</footer>
</body>
</html>
"""
    )


def opening(title: str, lead: str, facts: Sequence[tuple[str, str]]) -> Html:
    """The head of the page: what this is, in a sentence or two, and a few numbers (value, meaning) to remember."""
    numbers = join(Html(f"<div><dt>{markup(name)}</dt><dd>{markup(value)}</dd></div>") for value, name in facts)
    return Html(
        f'<header><h1>{markup(title)}</h1><p class="lead">{markup(lead)}</p><dl class="facts">{numbers}</dl></header>'
    )


def section(title: str, *content: str, anchor: str = "") -> Html:
    """A heading with what belongs to it; text becomes a paragraph. `link` leads to an `anchor`."""
    start = f'<section id="{html.escape(anchor)}">' if anchor else "<section>"
    return Html(f"{start}\n<h2>{markup(title)}</h2>\n{join(map(paragraph, content))}\n</section>")


def link(anchor: str, words: str) -> Html:
    """Words that lead to a section of this page."""
    return Html(f'<a href="#{html.escape(anchor)}">{markup(words)}</a>')


def contents(entries: Iterable[Html]) -> Html:
    """A list of what there is on the page."""
    return Html(f'<nav><ol class="contents">{join(Html(f"<li>{entry}</li>") for entry in entries)}</ol></nav>')


def block(content: str, *, kind: str) -> Html:
    """Text or markup set in the style that the style sheet has for its kind."""
    return Html(f'<div class="{html.escape(kind)}">{markup(content)}</div>')


def chip(word: str, *, kind: str) -> Html:
    """A word on a ground of its kind's colour."""
    return Html(f'<span class="chip {html.escape(kind)}">{markup(word)}</span>')


def paragraph(content: str) -> Html:
    """Text as a paragraph; markup stays what it is."""
    return content if isinstance(content, Html) else Html(f"<p>{markup(content)}</p>")


def figure(content: Html, caption: str = "", *, kind: str = "") -> Html:
    """Something to look at and a line about it."""
    words = f"<figcaption>{markup(caption)}</figcaption>" if caption else ""
    return Html(f'<figure class="{html.escape(kind)}">{content}{words}</figure>')


def gallery(figures: Sequence[Html], *, narrowest: int) -> Html:
    """Figures in as many columns as fit, none narrower than so many pixels unless the screen is."""
    return Html(f'<div class="gallery" style="--narrowest: {narrowest}px">{join(figures)}</div>')


def beside(first: Html, second: Html) -> Html:
    """Two things side by side, the first twice as wide; one below the other on a phone."""
    return Html(f'<div class="beside"><div>{first}</div>{second}</div>')


def folded(title: str, *content: str) -> Html:
    """What only some readers want, behind a line to click on."""
    return Html(f"<details><summary>{markup(title)}</summary>{join(map(paragraph, content))}</details>")


def video(
    mp4: bytes, *, label: str, size: tuple[int, int], fallback: bytes | None = None, controls: bool = False
) -> Html:
    """A video that plays by itself, silently and for ever.

    Args:
        mp4: the file; browsers want 4:2:0.
        label: what it shows, for those who cannot see it.
        size: width and height in pixels, so that the page does not jump when it loads.
        fallback: a small animated GIF or WebP, for programs that show no video.
        controls: whether to offer pause and seek.
    """
    inner = image(fallback, label=label, size=size) if fallback is not None else markup(label)
    return Html(
        f'<video autoplay loop muted playsinline{" controls" if controls else ""} width="{size[0]}" height="{size[1]}" '
        f'aria-label="{html.escape(label)}" src="{_data("video/mp4", mp4)}">{inner}</video>'
    )


def image(data: bytes, *, label: str, size: tuple[int, int]) -> Html:
    """A picture, whose pixels stay squares when it is enlarged."""
    kind = next((kind for start, kind in _SIGNATURES.items() if data.startswith(start)), None)
    if kind is None:
        raise ValueError(f"expected a PNG, GIF or WebP picture, got bytes that start with {data[:8]!r}")
    source = _data(f"image/{kind}", data)
    return Html(f'<img src="{source}" alt="{html.escape(label)}" width="{size[0]}" height="{size[1]}" loading="lazy">')


def table(
    header: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: bool = True, caption: str = "", kind: str = ""
) -> Html:
    """Rows of cells, the first of each naming the row.

    Args:
        header: names of the columns.
        rows: the cells; each row as many as the header.
        numbers: sets all but the first flush right, and breaks none of them but sentences.
        caption: a line above.
        kind: the style, where it is not that of `numbers` or of words.
    """
    head = "".join(f'<th scope="col">{markup(cell)}</th>' for cell in header)
    body = "\n".join(
        f'<tr><th scope="row">{markup(first)}</th>{"".join(map(_cell, rest))}</tr>' for first, *rest in rows
    )
    kind = kind or ("numbers" if numbers else "words")
    inner = f"<thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody>"
    whole = Html(f'<div class="wide"><table class="{html.escape(kind)}">{inner}</table></div>')
    if not caption:
        return whole
    return Html(f'<figure class="tabular"><figcaption>{markup(caption)}</figcaption>{whole}</figure>')


def _cell(content: str) -> str:
    return f'<td class="sentence">{markup(content)}</td>' if len(content) > LONG else f"<td>{markup(content)}</td>"


def legend(entries: Iterable[tuple[str, str]]) -> Html:
    """What the lines of charts are: (role, name); a role is a colour of the style sheet."""
    items = (f'<li><span class="swatch {html.escape(role)}"></span>{markup(name)}</li>' for role, name in entries)
    return Html(f'<ul class="legend">{"".join(items)}</ul>')


def commands(lines: Iterable[tuple[str, str]]) -> Html:
    """Commands to type, each with what it does."""
    items = (
        f"<li><span>{markup(purpose)}</span><pre><code>{html.escape(line)}</code></pre></li>" for line, purpose in lines
    )
    return Html(f'<ul class="commands">{"".join(items)}</ul>')


_SIGNATURES = {b"\x89PNG": "png", b"GIF8": "gif", b"RIFF": "webp"}


def _data(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
