"""The demo and its toy: one page in one file says what was measured, and only what a demo wrote is replaced."""

from __future__ import annotations

import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from torch import Tensor

from magi.data.world_files import write_world
from magi.evaluation.by_clip import MODEL, score_clips
from magi.evaluation.pixel import psnr
from magi.evaluation.world import EVALUATION_WORLD, world_test
from magi.experiments.demo import MARKER, QUICK, claim, predict, read_context, run_demo
from magi.experiments.toy import CONTEXT as TOY_CONTEXT
from magi.experiments.toy import train_toy
from magi.model.config import MagiConfig
from magi.model.head import HeadConfig
from magi.model.magi import Magi
from magi.pretrained import SHELF, names
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


# its contexts


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
