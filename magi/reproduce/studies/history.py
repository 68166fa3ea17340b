"""What does a model make of the frames before? Its loss on a hidden frame by how much of its past is hidden.

    python -m magi.reproduce.studies.history RELEASE ...

Explains a difference between paradigms: a model that was never shown complete frames may be lost when it sees some, or
may merely have learned less.

Shapes: B clips, T frames, N tokens per frame, P hidden tokens of a clip, R head repeats, C token channels, D width.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace

import torch
from einops import rearrange

from magi.data.clips import BEYOND
from magi.data.world import World, WorldConfig
from magi.evaluation.uncertainty import over_seeds
from magi.experiments.video import preparation
from magi.model.embeddings import patchify
from magi.model.head import training_times
from magi.report.studies import Curves, Series, Study, Table
from magi.reproduce.answers import number
from magi.reproduce.runs import explanations, headline
from magi.reproduce.tasks import FIVE
from magi.reproduce.workshop import Workshop
from magi.sampling.release import Release, load
from magi.seeds import generator

CLIPS = 64
HIDDEN = (0.0, 0.25, 0.5, 0.75, 1.0)  # shares of every frame before
FRAME = FIVE.context  # the hidden one, whose past are the frames that are given in that task


def study(workshop: Workshop) -> Study:
    """The paradigms side by side, seed by seed."""
    scale = workshop.scale
    found: dict[str, list[list[float]]] = {"CTF": [], "MTF": [], "MTF with complete beginnings": []}
    for recipe in (*headline(scale), *explanations(scale)):
        name = "MTF with complete beginnings" if recipe.prefix else recipe.forcing.upper()
        found[name].append(losses(workshop.trained(recipe), scale.world))
    rows = [
        [name, *(number(each, over_seeds(each)) for each in zip(*seeds, strict=True))] for name, seeds in found.items()
    ]
    means = {name: [sum(each) / len(each) for each in zip(*seeds, strict=True)] for name, seeds in found.items()}
    best = min(HIDDEN, key=lambda share: means["MTF"][HIDDEN.index(share)])
    return Study(
        name="history",
        title="What a complete past is worth",
        question="Is MTF lost when it sees complete frames, which it never did in training, or has it learned less?",
        claim="MTF cannot effectively utilize full observations during inference (§5.2).",
        verdict="measured",
        answer=f"MTF's loss on a hidden frame is lowest with {best:.0%} of each earlier frame hidden; with nothing "
        f"hidden it is {means['MTF'][0]:.2f} against {means['CTF'][0]:.2f} of CTF.",
        protocol={
            "loss": f"of the head on frame {FRAME + 1}, all of it hidden; {CLIPS} clips, interval 1, the same draws "
            "for all; CTF never looks at hidden frames",
        },
        tables=[Table("Loss by the hidden share of every frame before (95 % over seeds, where there are several)",
                      ("", *(f"{share:.0%}" for share in HIDDEN)), rows)],
        curves=[Curves("Loss on a hidden frame", "hidden share of every frame before", "loss",
                       [Series(name, list(HIDDEN), values) for name, values in means.items()])],
    )  # fmt: skip


def losses(release: Release, world: WorldConfig, *, shares: Sequence[float] = HIDDEN) -> list[float]:
    """The head's loss on a frame that is hidden, for each share of the frames before it that is hidden too."""
    return [loss(release, world, hidden=share) for share in shares]


@torch.no_grad()
def loss(release: Release, world: WorldConfig, *, hidden: float) -> float:
    """The head's loss on the tokens of frame `FRAME`, when this share of every earlier frame is hidden.

    Args:
        release: the model.
        world: the scenes; interval 1, clips that no run trains on.
        hidden: 0 shows the past whole, as generation does.
    """
    model, config = release.model, replace(release.model.config, clean_probability=1.0)
    device, count, repeats = model.head_position.device, config.tokens, config.head_repeats
    clips = World(replace(world, num_frames=config.num_frames, max_interval=1)).clips(range(BEYOND, BEYOND + CLIPS))
    latents, interval, draws = preparation(config, release.tokenizer, seed=0, device=device)(clips, 0)
    before = round(hidden * count)
    rows, times, noises = [], [], []
    for clip in range(CLIPS):
        order = generator(0, "hidden history", clip)
        chosen = [order.permutation(count)[: before if frame < FRAME else count] for frame in range(config.num_frames)]
        rows.append(torch.cat([torch.from_numpy(frame * count + chosen[frame]) for frame in range(len(chosen))]))
        head = generator(0, "hidden history, head", clip)  # from the end, so that it is the same whatever the share
        later = (repeats, config.num_frames * count)
        times.append(torch.from_numpy(head.random(later)[:, -len(rows[-1]) :]))
        noises.append(torch.from_numpy(head.standard_normal((*later, config.token_channels))[:, -len(rows[-1]) :]))
    masked = torch.stack(rows)[:, None].to(device)  # (B, 1, P)
    time = training_times(config.head, torch.stack(times, dim=1)[:, :, None].numpy())  # (R, B, 1, P)
    noise = torch.stack(noises, dim=1)[:, :, None].float()  # (R, B, 1, P, C)
    draws = replace(draws, masked_tokens=masked, head_time=time.to(device), head_noise=noise.to(device))

    tokens = patchify(latents, config.patch)  # (B, T, N, C)
    z = model.conditions(tokens, interval, draws, chosen=masked)  # (B, 1, P, D)
    target = tokens.flatten(1, 2)[:, None].take_along_dim(masked[..., None], dim=2)  # (B, 1, P, C)
    parts = model.head.loss(
        rearrange(z, "b m p d -> (b m p) d"), rearrange(target, "b m p c -> (b m p) c"),
        rearrange(draws.head_time, "r b m p -> r (b m p)"), rearrange(draws.head_noise, "r b m p c -> r (b m p) c"),
    )  # fmt: skip
    each = torch.stack(list(parts.values())).sum(0).mean(0).view(masked.shape)  # (B, 1, P)
    return float(each[masked // count == FRAME].mean())


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: python -m magi.reproduce.studies.history RELEASE ...")
    for folder in sys.argv[1:]:
        found = losses(load(folder), WorldConfig(min_bodies=2, max_bodies=3))
        print(folder, *(f"{share:.0%} {value:.3f}" for share, value in zip(HIDDEN, found, strict=True)))
