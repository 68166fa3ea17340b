"""The page of studies: the claims and what became of them, then each study with its evidence. Measures nothing."""

from __future__ import annotations

import io
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from magi import __version__
from magi.report import page as html
from magi.report.page import Html, figure, section
from magi.report.plots import looks, plot
from magi.report.results import Kept, Results
from magi.report.studies import Film, Verdict

KINDS: dict[Verdict, str] = {"held": "good", "did not hold": "bad", "undecided": "open", "measured": "plain"}
"""How the style sheet calls the colours of verdicts."""
NARROWEST = 330  # px of a plot or of a film


class NoFilm(ValueError):
    """A film of a study that cannot be shown: it is not there, or is no film."""


def study_page(results: Sequence[Results]) -> Html:
    """The whole page. Films that cannot be shown are told on it, and as warnings.

    Args:
        results: with at least one study in all.

    Raises:
        ValueError: there is no study.
    """
    kept = [(f"study-{number}", one) for number, one in enumerate((k for r in results for k in r.studies), start=1)]
    if not kept:
        raise ValueError("there is no study to report; name a results file, or a folder that has some")
    anchors = {id(one): anchor for anchor, one in kept}
    parts = [opening(results), summary(kept), contents(results, anchors)]
    for each in results:
        if len(results) > 1:
            parts.append(html.block(each.name, kind="run"))
        parts += [one_study(one, anchors[id(one)]) for one in each.studies]
    parts += [
        html.folded(f"JSON files of {each.name} that are no results and were left out", ", ".join(each.left_out))
        for each in results if each.left_out
    ]  # fmt: skip
    footer = f"Made by `magi report`, version {__version__}, from results files alone. Everything is in this one file."
    return html.page(title(results), *parts, footer=footer)


def title(results: Sequence[Results]) -> str:
    """What the browser's tab says."""
    return f"Results: {', '.join(each.name for each in results)}"


def opening(results: Sequence[Results]) -> Html:
    """How many claims held."""
    verdicts = Counter(one.study.verdict for each in results for one in each.studies)
    judged = sum(count for verdict, count in verdicts.items() if verdict != "measured")
    lead = (
        f"{judged} {'claim' if judged == 1 else 'claims'} examined. First the short answers, then the evidence."
        if judged
        else "Measurements; no claim is judged here. First the short answers, then the numbers."
    )
    return html.opening("Results", lead, [(str(verdicts[verdict]), verdict) for verdict in KINDS if verdicts[verdict]])


def summary(kept: Sequence[tuple[str, Kept]]) -> Html:
    """Claim, verdict and answer, for a person in a hurry."""
    rows = [
        [
            Html(f"{html.link(anchor, one.study.title)}<br>{html.markup(one.study.claim or one.study.question)}"),
            verdict(one.study.verdict),
            one.study.answer,
        ]
        for anchor, one in kept
    ]
    return section(
        "In short", html.table(["claim of the paper, or question", "verdict", "answer"], rows, kind="summary")
    )


def contents(results: Sequence[Results], anchors: Mapping[int, str]) -> Html:
    """What there is, in order."""
    listed = [html.contents(html.link(anchors[id(one)], one.study.title) for one in each.studies) for each in results]
    named = [
        html.join([html.paragraph(each.name), entries]) if len(results) > 1 else entries
        for each, entries in zip(results, listed, strict=True)
    ]
    return section("Contents", *named)


def one_study(kept: Kept, anchor: str) -> Html:
    """A study with all it has."""
    study = kept.study
    look = looks(line.name for curves in study.curves for line in curves.series)
    answer = html.block(html.join([verdict(study.verdict), study.answer]), kind="answer")
    parts: list[Html] = [answer]
    if study.question:
        parts.append(html.paragraph(study.question))
    if study.claim:
        parts.append(html.paragraph(f"The paper: {study.claim}"))
    parts += [html.table(one.columns, one.rows, caption=one.caption) for one in study.tables]
    if study.curves:
        parts.append(html.gallery([plot(curves, look) for curves in study.curves], narrowest=NARROWEST))
    if study.films:
        parts.append(html.gallery([film(one, kept.path) for one in study.films], narrowest=NARROWEST))
    parts += [html.paragraph(note) for note in study.notes]
    if study.protocol:
        parts.append(html.folded("Protocol: every choice that moves the numbers", protocol_card(study.protocol)))
    if study.command:
        parts.append(html.commands([(study.command, "made by")]))
    parts.append(
        html.block(" · ".join(word for word in (study.machine, study.date, str(kept.path)) if word), kind="quiet")
    )
    return section(study.title, *parts, anchor=anchor)


def verdict(word: Verdict) -> Html:
    """The word, and its colour for those who see it."""
    return html.chip(word, kind=KINDS[word])


def protocol_card(protocol: Mapping[str, Any]) -> Html:
    """Two columns: what was chosen, and how."""
    return html.table(["choice", "in force"], list(flat(protocol)), numbers=False)


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested choices by dotted names."""
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", said(value)


def said(value: object) -> str:
    """A value as a person would write it."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(map(said, value)) or "none"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {said(inner)}" for name, inner in value.items()) or "none"
    return str(value)


def film(one: Film, results: Path) -> Html:
    """A film, playing; where there is none, its caption and why, and a warning."""
    try:
        return figure(playing(results, one), one.caption)
    except NoFilm as error:
        warnings.warn(str(error), stacklevel=2)
        return figure(html.block(str(error), kind="lost"), one.caption)


def playing(results: Path, one: Film) -> Html:
    """A film of a results file, of one of the kinds that browsers play.

    Raises:
        NoFilm: naming the file and what is wrong with it.
    """
    relative = Path(one.file)
    if relative.is_absolute() or ".." in relative.parts:
        raise NoFilm(f"{results}: the film {one.file!r} must lie beside the results file or in a folder there")
    path = results.parent / relative
    try:
        content = path.read_bytes()
    except OSError as error:
        raise NoFilm(f"{path}: the film cannot be read: {error.strerror}") from None
    if content[4:8] == b"ftyp":
        return html.video(content, label=one.caption, size=film_size(path), controls=True)
    if content[:4] not in (b"GIF8", b"RIFF"):
        raise NoFilm(f"{path}: a film must be MP4, WebP or GIF")
    return html.image(content, label=one.caption, size=picture_size(path, content))


def film_size(path: Path) -> tuple[int, int]:
    """Width and height of an MP4 file."""
    from magi.video import probe

    try:
        info = probe(path)
    except ValueError as error:
        raise NoFilm(str(error)) from None
    return info.width, info.height


def picture_size(path: Path, content: bytes) -> tuple[int, int]:
    """Width and height of a GIF or WebP file."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(content)) as picture:
            return picture.size
    except (UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError) as error:
        raise NoFilm(f"{path}: no picture can be read in it: {error}") from None
