"""The demo's page: what was done, in words and figures for someone who has never heard of it. Measures nothing."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from itertools import pairwise

import torch
from torch import Tensor

from magi import __version__
from magi.evaluation.by_clip import CEILING, HELD, MODEL, STRAIGHT, ClipScores, Who
from magi.evaluation.world import CONTEXT
from magi.model.head import SOLVERS
from magi.report import page as html
from magi.report.console import table
from magi.report.figures import Curve, chart, ctf_mask_figure
from magi.report.films import Film, png
from magi.report.page import Html, figure, section
from magi.report.panels import strip, to_frames
from magi.report.records import Demo, InForce, Toy

SHOWN = 6  # videos on the page at once; the others are behind a line to click on
STRETCHES = 4  # into which a long run is divided
NAMES: dict[Who, str] = {
    MODEL: "MAGI",
    HELD: "the last given frame, held still",
    STRAIGHT: "every body straight on, no bounces",
    CEILING: "the truth through the tokenizer, the best that any model in its latents can do",
}


def demo_page(demo: Demo) -> Html:
    """The whole page."""
    return html.page(
        "MAGI: what happens next?",
        opening(demo),
        continuations(demo),
        accuracy(demo.scores),
        long_run(demo),
        learning(demo.toy),
        method(),
        section("Try next", html.commands(demo.commands)),
        small_print(demo),
        footer=f"Made by `magi demo`, version {__version__}. Everything on this page is in this one file.",
    )


def opening(demo: Demo) -> Html:
    """What this is, in two sentences, and the numbers to remember."""
    frames = demo.scores.error[MODEL].shape[1]
    ours, held = (float(demo.scores.error[who][:, -1].mean()) for who in (MODEL, HELD))
    lead = (
        f"MAGI was shown the first {CONTEXT} frames of each video and made up all that follow, one frame after the "
        "other. The discs obey exact laws, so every prediction can be held against what really happened."
    )
    facts = [
        (f"{demo.model.parameters / 1e6:.1f} M", "parameters"),
        (f"{CONTEXT} + {frames}", "frames given + predicted"),
        (f"{ours:.1f} px", f"off at frame +{frames}, of {pixels(demo.model)}"),
        (f"{held:.1f} px", "off if nothing had moved"),
        (f"{sum(demo.seconds.values()):.0f} s", "for all of this"),
    ]
    return html.opening("What happens next?", lead, facts)


def continuations(demo: Demo) -> Html:
    """The videos."""
    error = demo.scores.error[MODEL]
    figures = [
        figure(
            show(film, f"{film.name}: what was given, what happened, what MAGI predicted"),
            f"{file.name}, off by {float(error[clip, 0]):.1f} px at first, {float(error[clip, -1]):.1f} px at last",
        )
        for clip, (film, file) in enumerate(zip(demo.films, demo.files, strict=True))
    ]
    words = (
        "Left: what was given, the last frame of it held still from then on. Middle: what really happened. Right: what "
        "MAGI predicted. Grey borders mark given frames, orange ones frames that were made. These are the first videos "
        "of the test world, which no training uses; none was chosen."
    )
    shown, others = figures[:SHOWN], figures[SHOWN:]
    more = [html.folded(f"{len(others)} more", html.gallery(others, narrowest=440))] if others else []
    title = f"{CONTEXT} frames in, {error.shape[1]} frames out"
    return section(title, words, html.gallery(shown, narrowest=440), *more)


def accuracy(scores: ClipScores) -> Html:
    """The curves."""
    words = (
        f"Means of {len(scores.error[MODEL])} videos, frame by frame. A disc that cannot be found counts as being as "
        "far off as the frame allows. Predictions that differ by a pixel before a collision differ by many after it, "
        "so errors grow for everyone, and what is wrong here may still look right: judge by the videos, too."
    )
    figures = [
        curves(scores.error, "distance of the discs, pixels", bottom=0),
        curves(scores.psnr, "PSNR, dB (higher is better)"),
        curves(scores.right, "frames with the right discs, share", bottom=0, top=1.02),
    ]
    return section("How far off it is", words, html.legend(NAMES.items()), html.gallery(figures, narrowest=300))


def curves(values: Mapping[Who, Tensor], label: str, *, bottom: float | None = None, top: float | None = None) -> Html:
    """(B, F) for each role as curves over the F predicted frames."""
    frames = values[MODEL].shape[1]
    lines = [Curve(who, range(1, frames + 1), clips.mean(0).tolist()) for who, clips in values.items()]
    ticks = sorted({1, *range(4, frames + 1, 4), frames})
    drawn = chart(lines, x_label="predicted frame", y_label=label, x_ticks=ticks, bottom=bottom, top=top)
    return figure(drawn, kind="chart")


def long_run(demo: Demo) -> Html:
    """The rollouts past the trained length."""
    trained, frames = demo.model.config.num_frames, next(iter(demo.long.right.values())).shape[1]
    words = (
        f"Training showed the model {trained} frames at a time. The paper goes further by squeezing the positions of "
        "all frames into the trained range (middle). The other way is to forget the older half whenever the model has "
        "as many frames in sight as in training (right), which can go on for ever. Where each disc is soon becomes a "
        "matter of chance; what to look for is whether the same discs go on moving and bouncing, whole."
    )
    stretches = list(pairwise(frames * part // STRETCHES for part in range(STRETCHES + 1)))
    header = ["frames with the right discs", *(f"+{first + 1} to +{last}" for first, last in stretches)]
    rows = [
        [way, *(f"{100 * float(right[:, first:last].mean()):.0f} %" for first, last in stretches)]
        for way, right in demo.long.right.items()
    ]
    films = [figure(show(film, "a long continuation, made in two ways", controls=True)) for film in demo.long.films]
    return section(f"{frames} frames", words, html.gallery(films, narrowest=440), html.table(header, rows))


def learning(toy: Toy) -> Html:
    """The toy's training."""
    words = (
        f"A model of {round(toy.parameters, -4):,} parameters, started from random weights while this demo ran and "
        f"trained on {toy.clips:,} short clips of one or two discs in {toy.seconds:.0f} s. Each row continues the same "
        f"{toy.given} frames: noise should turn into a background, and then into discs near where they belong. The "
        "model above is the same program, larger and after some hours."
    )
    rows = [
        film_strip("before training" if clips == 0 else f"after {clips:,} clips", clip, given=toy.given, made=True)
        for clips, clip in toy.looks
    ]
    strips = html.join([*rows, film_strip("what happened", toy.truth, given=toy.given, made=False)])
    clips, losses = zip(*toy.losses, strict=True)
    loss = chart([Curve(MODEL, clips, losses)], x_label="clips seen", y_label="training loss", bottom=0)
    return section("A model learning", words, html.beside(strips, figure(loss, kind="chart")))


def film_strip(name: str, clip: Tensor, *, given: int, made: bool) -> Html:
    """A clip of the toy world (T, 3, S, S) as a row of pictures with its name."""
    picture = strip(to_frames(clip), given=given, made=made)
    size = (picture.shape[1], picture.shape[0])
    return figure(html.image(png(picture), label=f"frames, {name}", size=size), name, kind="strip")


def method() -> Html:
    """The paper's idea in a few sentences, and the figure they explain."""
    training = (
        "In training, patches of every frame are hidden and the model learns to fill them in. What it may look at "
        "meanwhile is the paper's idea, Complete Teacher Forcing: a masked frame sees all complete frames before it, "
        "as it will when it generates, and no masked frame but itself. One pass over the complete and the masked "
        "frames of a clip, under the mask shown here, teaches all of them at once."
    )
    generation = (
        "To make a frame, MAGI starts with all its patches hidden and reveals a few at a time, in random order; what a "
        "patch looks like is drawn by a small diffusion network, given what is known so far. The finished frame joins "
        "the complete ones, and the next begins."
    )
    words = html.join([html.paragraph(training), html.paragraph(generation)])
    return section("How it works", html.beside(words, figure(ctf_mask_figure(), kind="diagram")))


def small_print(demo: Demo) -> Html:
    """What was in force, how long it took, and what not to conclude."""
    model, config, sample = demo.model, demo.model.config, demo.model.sample
    limits = (
        f"A small model of a small world: it knows discs at {pixels(demo.model)} and nothing else, and other videos "
        f"need a model trained on them. {len(demo.films)} videos are a demonstration and no measurement."
    )
    steps = f"{min(sample.mask_steps, config.tokens)} mask steps, {sample.head_steps} denoising steps each"
    settings = [
        ("model", f"{model.name}, {config.depth} blocks of width {config.width}, {config.forcing.upper()}"),
        ("tokenizer", f"{model.stride} times smaller, {config.latent_channels} channels"),
        ("frame", f"{config.tokens} tokens, made in {steps}"),
        ("sampler", f"{sample.solver or SOLVERS[config.head.kind][0]}, temperature {sample.temperature:g}"),
        ("positions", f"{sample.time_mode}, window {sample.window or 'of all frames'}"),
        ("seeds", f"0 to {len(demo.films) - 1}, one per video; physics steps per frame: 1"),
        ("device", f"{model.device}, threads: {model.threads}"),
        ("software", f"torch {torch.__version__}, Python {platform.python_version()}, {platform.machine()}"),
    ]
    times = [(name, f"{seconds:.1f} s") for name, seconds in demo.seconds.items()]
    return section(
        "Small print",
        limits,
        html.table(["setting", "in force"], settings, numbers=False),
        html.table(["step", "time"], times),
    )


def show(film: Film, label: str, *, controls: bool = False) -> Html:
    """A film, playing."""
    return html.video(film.mp4, label=label, size=film.size, fallback=film.fallback, controls=controls)


def pixels(model: InForce) -> str:
    """The size of the pictures that a model makes."""
    return f"{model.stride * model.config.latent_width} × {model.stride * model.config.latent_height} pixels"


def summary(scores: ClipScores) -> str:
    """The page in four lines, for a terminal: how far off MAGI and the baselines are at a few predicted frames."""
    count = scores.error[MODEL].shape[1]
    shown = sorted({1, max(1, count // 4), max(1, count // 2), count})
    rows = [["pixels off, at predicted frame", *(f"{f'+{frame}':>7}" for frame in shown)]]
    names: dict[Who, str] = {MODEL: "MAGI", HELD: "last frame held still", STRAIGHT: "every body straight on"}
    for who, name in names.items():
        error = scores.error[who].mean(0)
        rows.append([name, *(f"{float(error[frame - 1]):.1f}" for frame in shown)])
    return table(rows)
