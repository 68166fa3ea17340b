"""UCF-101 through the Stable Diffusion 1.4 autoencoder: the paper's Table 3, FVD 420.6.

    magi encode ucf101-sd14 --data UCF-101 --tokenizer sd14:FOLDER --out cache/ucf101-sd14                      # 81 GB
    magi train ucf101-sd14 --data cache/ucf101-sd14 --out runs/ucf101-sd14
    magi train ucf101-sd14 --smoke --out runs/smoke                                             # the same path, tiny

Hardware: 8 H200 with each block checkpointed, about 87 hours at 40 % of their peak (2.7 days, and a third more for the
checkpointing) by `magi info ucf101-sd14 --gpu h200 --count 8`. Expected: the paper's FVD over 2,048 generated and 2,048
real clips. It has not been run: neither the videos nor such GPUs were at hand.
"""

from __future__ import annotations

from magi.data.folder import FolderConfig
from magi.experiments.paper import paper_run
from magi.experiments.planning import Footage

FOOTAGE = Footage(videos=13_320, mean_frames=186)  # 27 hours at 25 frames a second
"""All of UCF-101, training and test videos alike, as the compared works take it ("over 13,000")."""

VIDEO = paper_run(
    FolderConfig(path="", dataset="ucf101", split="all", num_frames=16),
    tokenizer="sd14",
    channels=4,
    latents=16,
    stochastic=True,
    checkpointed=True,
    batch=128,
    videos=FOOTAGE.videos,
    epochs=1400,
)
