"""The demo and its page: one file that loads nothing, says what was measured, and never harms what it did not write."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from magi.data.world import World, WorldConfig
from magi.data.world_files import write_world
from magi.evaluation.by_clip import CEILING, HELD, MODEL, STRAIGHT, score_clips
from magi.evaluation.pixel import psnr
from magi.evaluation.world import EVALUATION_WORLD, world_test
from magi.model.config import MagiConfig
from magi.model.forcing import ctf_mask
from magi.model.head import HeadConfig
from magi.model.magi import Magi
from magi.pretrained import SHELF, names
from magi.report import page as html
from magi.report.console import Steps, columns
from magi.report.demo import MARKER, QUICK, claim, predict, read_context, run_demo
from magi.report.figures import INKS, Curve, chart, ctf_mask_figure, standalone
from magi.report.page import Html
from magi.report.panels import GIVEN, MADE, SCALE, Panel, held, side_by_side, strip
from magi.report.toy import CONTEXT as TOY_CONTEXT
from magi.report.toy import train_toy
from magi.sampling.config import SampleConfig
from magi.sampling.release import Release, load, save_release
from magi.tokenizers.autoencoder import Autoencoder, AutoencoderConfig
from magi.tokenizers.protocol import to_pixels, to_video
from magi.video import probe, read_video


def tiny_release() -> Release:
    """A model of 64 pixels that knows nothing, as small as can be."""
    torch.manual_seed(0)
    config = MagiConfig(
        latent_height=8, latent_width=8, num_frames=8, depth=1, width=16, mlp_width=32, heads=2, dropout=0.0,
        head=HeadConfig(width=16, depth=1),
    )  # fmt: skip
    tokenizer = Autoencoder(
        AutoencoderConfig(channels=(8, 8, 8), encoder_blocks=(0, 0), decoder_blocks=(0, 0, 0))
    ).eval()
    return Release(Magi(config).eval(), tokenizer, SampleConfig(mask_steps=2, head_steps=2, solver="ddim"))


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a quick demo of a model that knows nothing."""
    folder = tmp_path_factory.mktemp("quick")
    save_release(folder / "release", tiny_release(), card="random")
    return run_demo(folder / "demo", model=folder / "release", device="cpu", quick=True).parent


class Loaded(HTMLParser):
    """Collects what a browser would fetch for a page, and its headings."""

    def __init__(self) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.headings: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.open.append(tag)
        self.sources += [
            value or "" for name, value in attributes if name in ("src", "href", "srcset", "poster", "data")
        ]

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)
            self.open.append("")


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


# world files


def test_world_files_tell_the_truth(tmp_path: Path) -> None:
    """JSON keeps every float64 exactly, and the video shows what it says; existing files are never written over."""
    config = WorldConfig(num_frames=4, seed=3)
    first, second = write_world(tmp_path, config, samples=[7, 8], interval=2)
    states = World(config).simulate([8], interval=2)
    told = json.loads(second.with_suffix(".json").read_text())
    present = states.present[0]
    assert told["interval"] == 2 and told["sample"] == 8 and told["frames"] == 4
    positions = torch.tensor([body["position"] for body in told["bodies"]], dtype=torch.float64)
    assert torch.equal(positions, states.position[0][:, present].transpose(0, 1))
    frames = torch.from_numpy(read_video(second).frames)
    assert (frames - World(config).render(states)[0].permute(0, 2, 3, 1).float()).abs().mean() < 1.5
    with pytest.raises(ValueError, match=r"world-000007\.mp4 exists"):
        write_world(tmp_path, config, samples=[6, 7])
    assert not (tmp_path / "world-000006.mp4").exists() and first.exists()


def test_a_decoded_file_is_as_good_a_context_as_the_raw_frames(tmp_path: Path) -> None:
    """The tokenizer loses a hundred times more than the near-lossless file does (37 and 48 dB), so that what the model
    sees of a file, its latents, is that of the raw frames to 3 % of their deviation, and decodes as well to .1 dB. With
    the noise of the same seeds the model then puts the bodies in the same places: its error changes by less than .2 px,
    where a context that is late by one frame changes it by more than 1."""
    assert "world64" in names(), f"the shipped model is missing from {SHELF}"
    shipped, frames = load("world64"), 4
    files = write_world(tmp_path, EVALUATION_WORLD, samples=range(2), interval=1, num_frames=5)
    test = world_test(1, clips=2, config=replace(EVALUATION_WORLD, num_frames=5 + frames))
    decoded, raw = torch.stack([read_context(file) for file in files]), test.video[:, :5]
    assert float(psnr(decoded, raw).min()) > 44
    latents, exact = (shipped.tokenizer.encode(to_pixels(video)) for video in (decoded, raw))
    assert float((latents - exact).square().mean().sqrt()) < 0.03 * float(exact.std())

    def quality(of: Tensor) -> float:
        return float(psnr(to_video(shipped.tokenizer.decode(of)), raw).mean())

    assert abs(quality(latents) - quality(exact)) < 0.1

    def error(context: Tensor) -> Tensor:
        settings = replace(shipped.sample, mask_steps=4, head_steps=5)
        made = predict(shipped, context, frames=frames, settings=settings, progress=lambda done, total: None)
        return score_clips(made, test, reconstructed=test.video, context=5).error[MODEL].mean(0)

    expected = error(raw)
    assert float((error(decoded) - expected).abs().max()) < 0.2
    late = test.video[:, [0, 0, 1, 2, 3]]
    assert float((error(late) - expected).abs().max()) > 1


# the toy


def test_the_toy_learns(tmp_path: Path) -> None:
    """The loss falls, what is shown begins with the given frames, and the result is a model like any other."""
    tokenizer = tiny_release().tokenizer
    toy = train_toy(tokenizer, tmp_path / "toy", seconds=60, most=96, device=torch.device("cpu"))
    assert toy.clips == 96 and toy.losses[-1][0] == 96
    assert toy.losses[-1][1] < 0.8 * toy.losses[0][1]
    assert [clips for clips, _ in toy.looks] == sorted({clips for clips, _ in toy.looks})
    assert toy.looks[0][0] == 0 and toy.looks[-1][0] == 96
    for _, clip in toy.looks:
        assert clip.shape == toy.truth.shape and torch.equal(clip[:TOY_CONTEXT], toy.truth[:TOY_CONTEXT])
    assert load(tmp_path / "toy" / "release").model.config.num_frames == 8


def test_a_slow_machine_trains_on_fewer_clips(tmp_path: Path) -> None:
    """The time is a limit: with none to spend, one step is made."""
    toy = train_toy(tiny_release().tokenizer, tmp_path / "toy", seconds=0, most=96, device=torch.device("cpu"))
    assert toy.clips == 8


# the demo


def test_the_page_is_one_file(demo: Path) -> None:
    """A browser has nothing to fetch: every source is data in the page, and no address occurs in it."""
    text = (demo / "index.html").read_text(encoding="utf-8")
    assert "http://" not in text and "https://" not in text and "<script" not in text and "@import" not in text
    reader = Loaded()
    reader.feed(text)
    assert reader.sources and all(source.startswith(("data:", "#")) for source in reader.sources)
    assert text.count("<video ") == QUICK.videos + QUICK.long_videos
    assert len(text) < 6e6


def test_the_page_has_every_section(demo: Path) -> None:
    """Nothing that was computed is left out."""
    reader = Loaded()
    reader.feed((demo / "index.html").read_text(encoding="utf-8"))
    assert reader.headings == [
        "5 frames in, 3 frames out", "How far off it is", "12 frames", "A model learning", "How it works",
        "Try next", "Small print",
    ]  # fmt: skip


def test_the_demo_leaves_files_to_look_at(demo: Path) -> None:
    """A video and a GIF each, of all frames, and the numbers of the page as JSON."""
    for name, frames in (("world-000000", 8), ("world-000001", 8), ("long-000000", 17)):
        film = read_video(demo / "videos" / f"{name}.mp4")
        assert film.problem is None and len(film.frames) == frames
        assert len(read_video(demo / "videos" / f"{name}.gif").frames) == frames
    assert probe(demo / "contexts" / "world-000000.mp4").num_frames == 8
    results = json.loads((demo / "results.json").read_text())
    assert all(len(values) == QUICK.frames for values in results["position error, px"].values())
    assert len(results["seconds"]) == 5 and load(demo / "toy" / "release")


def test_only_an_earlier_demo_is_replaced(tmp_path: Path) -> None:
    """A folder that holds anything a demo did not write is refused and left as it was."""
    new = tmp_path / "new" / "demo"
    claim(new)
    (new / "videos").mkdir()
    (new / "videos" / "old.mp4").touch()
    claim(new)
    assert [path.name for path in new.iterdir()] == [MARKER]
    (new / "mine.txt").touch()
    (new / "index.html").touch()
    with pytest.raises(ValueError, match=r"mine\.txt"):
        claim(new)
    assert (new / "index.html").exists()
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "index.html").touch()
    for place in (foreign, foreign / "index.html"):
        with pytest.raises(ValueError, match="no earlier demo"):
            claim(place)
    assert [path.name for path in foreign.iterdir()] == ["index.html"]


# the console


def test_columns_are_aligned() -> None:
    """Every line is as wide as the others, and numbers end in the same column."""
    lines = columns([["name", "+1", "+16"], ["a longer name", "1.5", "22.75"]]).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[0].endswith("+16") and lines[1].endswith("22.75")


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
