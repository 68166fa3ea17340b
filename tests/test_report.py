"""Drawing: pages that load nothing and say text as it was written, charts, panels, and what a terminal shows."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from magi.evaluation.by_clip import CEILING, HELD, MODEL, STRAIGHT
from magi.model.forcing import ctf_mask
from magi.report import page as html
from magi.report.console import Steps, table
from magi.report.figures import INKS, Curve, chart, ctf_mask_figure, standalone
from magi.report.films import GrowingFilm, files_of
from magi.report.page import Html
from magi.report.panels import GIVEN, MADE, SCALE, Panel, held, side_by_side, strip
from magi.video import read_video

# the page


def test_text_is_escaped_and_markup_is_not() -> None:
    """Text reaches the reader as it was written, whatever it is, in every place a page has for it."""
    nasty = "<b>&\"'`x<y`"
    pieces = [
        html.section(nasty, nasty), html.opening(nasty, nasty, [(nasty, nasty)]), html.table([nasty], [[nasty, nasty]]),
        html.figure(Html("<i>kept</i>"), nasty), html.legend([("model", nasty)]), html.commands([(nasty, nasty)]),
        html.folded(nasty, nasty), html.page(nasty, footer=nasty),
        html.video(b"", label=nasty, size=(2, 2)), html.image(b"GIF89a", label=nasty, size=(1, 1)),
    ]  # fmt: skip
    for piece in pieces:
        assert "<b>" not in piece and "x<y" not in piece and "&lt;b&gt;" in piece
    assert "<code>x&lt;y</code>" in pieces[0]
    assert "<i>kept</i>" in pieces[3]


def test_a_picture_of_unknown_kind_is_refused() -> None:
    """A browser would show a broken picture and no error."""
    with pytest.raises(ValueError, match="PNG, GIF or WebP"):
        html.image(b"BM something", label="", size=(1, 1))


def test_charts_take_their_colours_from_the_page_and_load_nothing() -> None:
    """Colours are variables, so that the page can be dark; namespaces, which look like addresses, are gone."""
    curves = [Curve(role, [1, 2, 3], [1.0, 2.0, 4.0]) for role in (MODEL, HELD, STRAIGHT, CEILING)]
    drawn = chart(curves, x_label="frame", y_label="error", x_ticks=[1, 2, 3], bottom=0)
    assert "http" not in drawn and not any(ink in drawn for ink in INKS.values())
    style = (Path(html.__file__).parent / "style.css").read_text()
    for name in INKS:
        assert f"var(--{name})" in drawn
        assert style.count(f"--{name}:") == 2, "one for light, one for dark"
    assert drawn.startswith("<svg viewBox=") and ">frame<" in drawn, "text stays text"


def test_the_mask_figure_shows_the_mask() -> None:
    """Read square by square, row by row, the figure is the temporal mask of the model, for any number of frames."""
    for frames in (2, 4, 5):
        drawn = ctf_mask_figure(frames)
        squares = re.findall(r'<rect x="(\d+)" y="(\d+)" .*? fill="(.*?)"/>', drawn)
        shown = sorted((int(y), int(x), fill != "var(--empty)") for x, y, fill in squares)
        mask = ctf_mask(frames)
        assert torch.equal(torch.tensor([seen for _, _, seen in shown]).view(mask.shape), mask)
    committed = Path(__file__).parents[1] / "docs" / "figures" / "ctf_mask.svg"
    assert committed.read_text(encoding="utf-8") == standalone(ctf_mask_figure()), "python -m magi.report.figures"


# panels


def test_borders_tell_given_frames_from_made_ones() -> None:
    """Grey around what was given, orange around what a model made, and nothing around what merely happened."""
    frames = np.zeros((3, 16, 16, 3), dtype=np.uint8)
    video = side_by_side([Panel("a", frames, given=2, made=True), Panel("b", frames, given=2)])
    height, width = video.shape[1:3]
    assert height % 2 == 0 and width % 2 == 0, "browsers' 4:2:0 halves both"

    def colours(frame: int, half: slice) -> set[tuple[int, ...]]:
        return {tuple(pixel) for pixel in video[frame, 30:, half].reshape(-1, 3).tolist()}

    left, right = slice(0, width // 2), slice(width // 2, width)
    assert GIVEN in colours(1, left) and MADE not in colours(1, left)
    assert MADE in colours(2, left) and GIVEN not in colours(2, left)
    assert GIVEN in colours(1, right) and not {GIVEN, MADE} & colours(2, right)
    picture = strip(frames, given=2, made=True)
    assert picture.shape == (18, 3 * 16 + 2 * 2, 3)
    assert tuple(picture[0, 0]) == GIVEN and tuple(picture[0, -1]) == MADE


def test_a_film_can_be_watched_while_it_grows(tmp_path: Path) -> None:
    """Each frame is in the file when it has been appended, but for the last at most, from when it has its name; a GIF
    follows at the end, and of drafts nothing stays."""
    clip = torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    stem, draft = tmp_path / "film", tmp_path / "draft"
    with GrowingFilm(stem, draft=draft, context=clip[:2], truth=clip[2:], size=16, fps=8, plain=False) as film:
        for done, frame in enumerate(clip[2:], start=3):
            film.append(frame)
            assert (tmp_path / "film.mp4").exists() == (done > 3)
            film.reveal()
            assert len(read_video(tmp_path / "film.mp4").frames) >= done - 1
    files = files_of(stem, plain=False)
    assert sorted(tmp_path.iterdir()) == sorted(files) == [tmp_path / "film.gif", tmp_path / "film.mp4"]
    for path in files:
        frames = read_video(path).frames
        assert frames.shape == (4, 16 * 18, 2 * 16 * 18, 3)
        assert np.abs(frames[:, 8, 8].astype(int) - GIVEN).max() < 20, "the truth, on the left, was not made"
        assert np.abs(frames[2:, 8, -8].astype(int) - MADE).max() < 20


def test_pictures_are_enlarged_to_squares() -> None:
    """Every pixel becomes a square of one colour: nothing is smoothed over."""
    frames = np.random.default_rng(0).integers(0, 256, (1, 16, 16, 3), dtype=np.uint8)
    video = side_by_side([Panel("", frames)])
    inner = video[0, 26 : 26 + 16 * SCALE, 8 : 8 + 16 * SCALE]
    assert np.array_equal(inner, frames[0].repeat(SCALE, axis=0).repeat(SCALE, axis=1))


def test_the_last_given_frame_is_held() -> None:
    """After the given frames comes the last of them, darker."""
    context = np.full((2, 4, 4, 3), 200, dtype=np.uint8)
    shown = held(context, 5)
    assert np.array_equal(shown[:2], context) and shown.shape[0] == 5
    assert (shown[2:] < 200).all() and (shown[2:] > 0).all()


# the console


def test_columns_are_aligned() -> None:
    """Every line is as wide as the others, and numbers end in the same column; words, where they are told apart, begin
    in one, and no line ends in blanks."""
    rows = [["name", "+1", "+16"], ["a longer name", "1.5", "22.75"]]
    lines = table(rows).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[0].endswith("+16") and lines[1].endswith("22.75")
    first, second = table(rows, words=(0, 2)).splitlines()
    assert first.index("+16") == second.index("22.75") and first == first.rstrip()


def test_steps_are_timed_and_numbered(capsys: pytest.CaptureFixture[str]) -> None:
    """One line per finished step; one that fails leaves the error to whoever catches it."""
    steps = Steps()
    with steps.step("first") as progress:
        progress(1, 2)
    with pytest.raises(ValueError, match="broken"), steps.step("second"):
        raise ValueError("broken")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 and lines[0].startswith("  1  first") and lines[0].endswith(" s")
    assert list(steps.seconds) == ["first"]
