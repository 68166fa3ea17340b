"""What a training takes: steps, operations, days, memory per GPU, and the disk of its latents.

Arithmetic from a run's settings and from what is known of its data and of GPUs. Nothing is measured here: how much of a
GPU's peak is reached is given, and the memory of buffers, kernels and fragmentation comes on top.
"""

from __future__ import annotations

from dataclasses import dataclass

from magi.data.latent_recipe import DrawnClips, Recipe
from magi.data.latents import CacheCost, cache_cost
from magi.experiments.encode import DRAWN
from magi.experiments.video import VideoRun
from magi.model import plan
from magi.tokenizers.protocol import pixel_frames

SECONDS_PER_DAY = 86_400


@dataclass(frozen=True)
class Gpu:
    """What the maker's data sheet promises."""

    flops: float  # per second, dense bfloat16
    memory: float  # bytes
    bandwidth: float  # bytes per second, of that memory


GPUS: dict[str, Gpu] = {
    "a100": Gpu(312e12, 80e9, 2.04e12),
    "h100": Gpu(989e12, 80e9, 3.35e12),
    "h200": Gpu(989e12, 141e9, 4.8e12),
    "b200": Gpu(2250e12, 180e9, 8e12),
}
"""NVIDIA's SXM modules, by their data sheets."""


@dataclass(frozen=True)
class Footage:
    """What is known of a data set before it is on the disk."""

    videos: int
    mean_frames: float


@dataclass(frozen=True)
class TrainingPlan:
    """What one training takes."""

    steps: int
    epochs: float | None  # None where the number of videos is not known
    flops: float
    days: float
    bytes_per_gpu: float
    bytes_per_gpu_checkpointed: float
    gpu_bytes: float

    @property
    def fits(self) -> str:
        """In a word or two, whether the run fits into the memory of its GPUs."""
        if self.bytes_per_gpu <= self.gpu_bytes:
            return "fits"
        return "fits with --checkpointed" if self.bytes_per_gpu_checkpointed <= self.gpu_bytes else "does not fit"


def plan_training(run: VideoRun, footage: Footage | None, *, gpu: Gpu, count: int, utilisation: float) -> TrainingPlan:
    """Plan a run on `count` GPUs that share each batch (data parallel), each holding the whole model. Of the clips of
    each GPU those of one part are there at once (`train.parts`).

    Args:
        run: settings of the training.
        footage: its data, if known.
        gpu: the kind of GPU.
        count: how many; must divide the batch.
        utilisation: the share of peak operations that the training reaches (MFU).

    Raises:
        ValueError: the batch cannot be divided, or the utilisation is not a share.
    """
    batch, samples = run.train.batch_size, run.train.total_samples
    if count < 1 or batch % count:
        raise ValueError(f"a batch of {batch} clips cannot be shared evenly by {count} GPUs")
    if not 0 < utilisation <= 1:
        raise ValueError(f"the share of peak operations reached must be in (0, 1], got {utilisation}")
    flops = samples * plan.training_flops(run.model).total
    states = sum(plan.training_bytes(sum(plan.count_parameters(run.model).values())).values())
    kept, checkpointed = (plan.activation_bytes(run.model, checkpointed=again) for again in (False, True))
    share = batch // max(count, run.train.parts or count)
    return TrainingPlan(
        steps=samples // batch,
        epochs=samples / footage.videos if footage is not None else None,
        flops=flops,
        days=flops / (utilisation * gpu.flops * count) / SECONDS_PER_DAY,
        bytes_per_gpu=states + share * kept,
        bytes_per_gpu_checkpointed=states + share * checkpointed,
        gpu_bytes=gpu.memory,
    )


def plan_cache(run: VideoRun, footage: Footage, *, clips_per_video: int = DRAWN) -> CacheCost:
    """The latent cache of a run on videos of this number and mean length.

    Args:
        run: on videos, through a tokenizer whose latents fill the model's clips.
        footage: the videos.
        clips_per_video: where a latent frame stands for several frames, how many clips are drawn of each.

    Raises:
        ValueError: no tokenizer makes the model's latent frames of the run's clips.
    """
    data, model = run.data.folder, run.model
    stride, over = divmod(data.num_frames - 1, max(1, model.num_frames - 1))
    if over or pixel_frames(model.num_frames, stride) != data.num_frames:
        raise ValueError(
            f"clips of {data.num_frames} frames are never {model.num_frames} latent frames, which --model.num-frames "
            "asks for"
        )
    drawn = DrawnClips(
        per_video=clips_per_video,
        num_frames=data.num_frames,
        min_interval=data.min_interval,
        max_interval=data.max_interval,
        interval_rule=data.interval_rule,
    )
    recipe = Recipe(
        tokenizer="",
        latent_shape=(model.latent_channels, model.latent_height, model.latent_width),
        temporal_stride=max(1, stride),  # of one frame, any
        size=data.size,
        crop=data.crop,
        flip=data.flip,
        max_frames=data.max_frames,
        deviation=run.sample_latents,
        drawn=drawn if stride > 1 else None,
    )
    return cache_cost(recipe, data.shape, num_videos=footage.videos, frames_per_video=round(footage.mean_frames))
