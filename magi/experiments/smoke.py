"""Data sets and tokenizers of the paper's experiments in miniature, so that the whole path can be walked in a minute.

The trees, tables and files have the real formats and the tokenizers are the real classes, at tiny width and untrained:
what comes out shows that every part fits, and nothing about quality.
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import torch
from einops import rearrange

from magi import checkpoint
from magi.data.world import World, WorldConfig
from magi.tokenizers import store
from magi.tokenizers.published.cosmos import CosmosConfig, CosmosTokenizer
from magi.tokenizers.published.omnitokenizer import OmniTokenizer, OmniTokenizerConfig
from magi.tokenizers.published.stable_diffusion import StableDiffusionAutoencoder, StableDiffusionConfig
from magi.video import Frames, write_video
from magi.video.libraries import pyav

FRAMES, FPS = 40, 25
UCF101_CLASSES = ("ApplyEyeMakeup", "BodyWeightSquats", "YoYo")
KINETICS600_CLASSES = ("air drumming", "waving hand", "zumba")
VIDEOS = 4  # of each class


def filmed(number: int) -> Frames:
    """The frames (40, 60, 80, 3) of video `number`: the procedural world, wider than high as films are."""
    world = World(WorldConfig(size=64, num_frames=FRAMES, max_interval=1, seed=number))
    frames = rearrange(world.clips([0]).video[0], "t c h w -> t h w c").numpy()
    return np.pad(frames, ((0, 0), (0, 0), (8, 8), (0, 0)))[:, 2:62]


def write_avi(path: Path, frames: Frames) -> None:
    """Write frames as UCF-101 has them: MPEG-4 in an AVI file, a key frame every 12."""
    path.parent.mkdir(parents=True, exist_ok=True)
    av = pyav()
    with av.open(str(path), "w", format="avi") as container:
        stream = container.add_stream("mpeg4", rate=FPS, options={"g": "12", "qscale": "3"})
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode(None))


def write_ucf101(root: Path) -> None:
    """`root`/UCF-101 with a few classes of .avi files, and `root`/ucfTrainTestlist with the lists of split 01."""
    lists = root / "ucfTrainTestlist"
    lists.mkdir(parents=True)
    names: dict[str, list[str]] = {"train": [], "test": []}
    for label, kind in enumerate(UCF101_CLASSES, start=1):
        for video in range(VIDEOS):
            name = f"{kind}/v_{kind}_g{video + 1:02d}_c01.avi"
            write_avi(root / "UCF-101" / name, filmed(VIDEOS * label + video))
            names["test" if video == 0 else "train"].append(name if video == 0 else f"{name} {label}")
    indices = [f"{label} {kind}" for label, kind in enumerate(UCF101_CLASSES, start=1)]
    for file, lines in (("classInd", indices), ("trainlist01", names["train"]), ("testlist01", names["test"])):
        (lists / f"{file}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_kinetics600(root: Path) -> None:
    """`root`/train/CLASS/ID_START_END.mp4 and `root`/annotations/train.csv, which names one video that has gone."""
    rows = []
    for label, kind in enumerate(KINETICS600_CLASSES):
        for video in range(VIDEOS):
            key = f"mini{label}-{video:05d}"[:11]
            name = f"{key}_{10 * video:06d}_{10 * video + 10:06d}.mp4"
            rows.append([kind, key, 10 * video, 10 * video + 10, "train"])
            (root / "train" / kind).mkdir(parents=True, exist_ok=True)
            write_video(root / "train" / kind / name, filmed(VIDEOS * label + video), fps=FPS, quality="web")
    rows.append([KINETICS600_CLASSES[0], "gone-------", 0, 10, "train"])
    (root / "annotations").mkdir()
    with (root / "annotations" / "train.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["label", "youtube_id", "time_start", "time_end", "split"], *rows])


def write_sd14(folder: Path) -> None:
    """`folder`/vae as in a pipeline folder of Stable Diffusion, 1,000 times smaller."""
    torch.manual_seed(0)
    tiny = StableDiffusionConfig(block_out_channels=(4, 4, 8, 8), layers_per_block=1, norm_num_groups=2)
    StableDiffusionAutoencoder(tiny).network.save_pretrained(folder / "vae")


def write_cosmos(folder: Path) -> None:
    """A folder as diffusers writes the autoencoder of Cosmos."""
    torch.manual_seed(0)
    tiny = CosmosConfig(encoder_block_out_channels=(8, 8, 8, 8), decode_block_out_channels=(8, 8, 8), num_layers=1)
    CosmosTokenizer(tiny).network.save_pretrained(folder)


def write_omnitokenizer(folder: Path) -> None:
    """A folder as `magi tokenizer convert omnitokenizer` writes it."""
    torch.manual_seed(0)
    tiny = OmniTokenizerConfig(width=16, heads=2, head_width=8, window=4, encoder_blocks="tw", decoder_blocks="t")
    tokenizer = OmniTokenizer(tiny)
    checkpoint.save(folder, store.weights(tokenizer), {"config.json": {"tokenizer": store.describe(tokenizer)}})
