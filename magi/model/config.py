"""What a MAGI model is made of: one frozen record, checked where it is made, and the presets from laptop to paper.

Each field where the paper is silent says how the gap is resolved; the default is the paper's reading.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from magi.choices import check_choices
from magi.model.embeddings import NoiseEmbedding
from magi.model.head import HeadConfig

Forcing = Literal["ctf", "mtf"]
COUNTS = (
    *("latent_channels", "latent_height", "latent_width", "patch", "num_frames"),
    *("depth", "width", "mlp_width", "heads"),
    *("head_repeats", "masks_per_clip", "max_interval", "noise_buckets"),
)
"""Settings that count something there must be at least one of."""


@dataclass(frozen=True)
class MagiConfig:
    """Architecture and training paradigm of a model."""

    # latents
    latent_channels: int = 4
    """Channels of the tokenizer's latents (4 for Stable Diffusion's VAE)."""
    latent_height: int = 32
    latent_width: int = 32
    patch: int = 2
    """Latent pixels per token side (A.3: patch 2 in all experiments)."""
    num_frames: int = 16
    """Latent frames of a training clip (A.3: 16 with a 2-D VAE)."""

    # transformer (A.1)
    depth: int = 20
    width: int = 1280
    mlp_width: int = 5120
    heads: int = 16
    dropout: float = 0.1
    """Of attention weights, projections and MLPs (unstated; follows MAR)."""
    temporal_out_proj: bool = False
    """An extra projection after temporal attention as in TimeSformer; would bring the count nearer to 850 M (unstated).
    """

    # teacher forcing (§3)
    forcing: Forcing = "ctf"
    masks_per_clip: int = 1
    """Differently masked copies that share one observation pass; the paper has one."""
    mask_ratio_min: float = 0.7
    mask_ratio_std: float = 0.25
    """MAR's truncated normal about 1 (unstated; follows MAR)."""
    mask_ratio_granularity: Literal["batch", "frame"] = "batch"
    """One ratio for all frames of the global batch (MAR), or one for each frame of a clip."""
    mtf_first_frame_clean: bool = False
    """MTF: the first frame is always complete and never predicted (1X's Genie), so a context must be given."""
    mtf_clean_prefix_probability: float = 0.0
    """MTF: how often a step shows a complete beginning of 1 to T - 1 frames and predicts the rest (1X's Genie: .5)."""

    # exposure bias (§3, §4)
    max_interval: int = 25
    """Vocabulary of the interval embedding, ids 1..25."""
    noise_max: float = 0.7
    """Largest standard deviation of the noise on observation frames (blank in our text; GameNGen's value)."""
    noise_mix: Literal["add", "vp"] = "add"
    """A noisy frame is x + sigma e (GameNGen), or sqrt(1 - sigma^2) x + sigma e, which preserves the variance."""
    noise_buckets: int = 10
    """Noise ids beside the clean one (unstated; GameNGen's number)."""
    noise_bucketing: Literal["floor", "round"] = "floor"
    """Equal buckets; or the nearest whole one, as GameNGen's reimplementation has it: a first bucket of half the width
    and a last one of three halves."""
    noise_granularity: Literal["clip", "frame"] = "clip"
    """One level per clip (GameNGen) or one per frame."""
    noise_embedding: NoiseEmbedding = "token"
    """'Concatenated with hidden states': as one more token per frame, as channels through a projection, or added."""
    clean_probability: float = 0.1
    """How often a clip (or frame) carries no noise and the clean id, the one that inference commits frames with."""

    # diffusion head (A.1: 3 x 1024, as MAR)
    head: HeadConfig = field(default_factory=HeadConfig)
    head_repeats: int = 4
    """Diffusion times drawn per masked token and step (MAR's diffusion_batch_mul)."""

    def __post_init__(self) -> None:
        check_choices(self)
        for name in COUNTS:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("noise_max", "mask_ratio_std"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {self.dropout}")
        for size, name in ((self.latent_height, "latent_height"), (self.latent_width, "latent_width")):
            if size % self.patch:
                raise ValueError(f"{name} {size} is not divisible by patch {self.patch}")
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not divisible by heads {self.heads}")
        if self.width % 4:
            raise ValueError(f"width {self.width} is not divisible by 4, which the 2-D sinusoids need")
        if self.noise_mix == "vp" and self.noise_max > 1:
            raise ValueError(f"noise_max must be at most 1 where variance is preserved (vp), got {self.noise_max}")
        if not 0 < self.mask_ratio_min <= 1:
            raise ValueError(f"mask_ratio_min must be in (0, 1], got {self.mask_ratio_min}")
        if self.forcing == "mtf" and self.masks_per_clip != 1:
            raise ValueError(
                f"masks_per_clip {self.masks_per_clip} needs an observation pass to share; MTF has none: use 1"
            )
        if not 0 <= self.mtf_clean_prefix_probability <= 1:
            raise ValueError(f"mtf_clean_prefix_probability must be in [0, 1], got {self.mtf_clean_prefix_probability}")
        for name in ("mtf_first_frame_clean", "mtf_clean_prefix_probability"):
            if getattr(self, name) and (self.forcing != "mtf" or self.num_frames < 2):
                raise ValueError(
                    f"{name} {getattr(self, name)} needs forcing mtf and at least 2 frames; this is {self.forcing} "
                    f"with {self.num_frames}"
                )
        if not 0 < self.clean_probability <= 1:
            raise ValueError(
                f"clean_probability must be in (0, 1], got {self.clean_probability}: inference uses the clean id"
            )

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tokens in a frame."""
        return self.latent_height // self.patch, self.latent_width // self.patch

    @property
    def tokens(self) -> int:
        """Tokens per frame, N."""
        return self.grid[0] * self.grid[1]

    @property
    def frame_tokens(self) -> int:
        """Tokens per frame that the transformer sees, L: N and the noise level's own, if it has one."""
        return self.tokens + (self.noise_embedding == "token")

    @property
    def token_channels(self) -> int:
        """Numbers per token, C."""
        return self.latent_channels * self.patch**2


PRESETS: dict[str, MagiConfig] = {
    # one CPU core: 16 tokens per frame from an 8x autoencoder at 64 pixels
    "tiny": MagiConfig(
        latent_height=8, latent_width=8, depth=4, width=128, mlp_width=512, heads=4, dropout=0.0,
        head=HeadConfig(width=128), head_repeats=2,
    ),
    "small": MagiConfig(depth=6, width=384, mlp_width=1536, heads=6, head=HeadConfig(width=512)),
    "base": MagiConfig(depth=12, width=768, mlp_width=3072, heads=12, head=HeadConfig(width=1024)),
    "large": MagiConfig(depth=16, width=1024, mlp_width=4096, heads=16, head=HeadConfig(width=1024)),
    "xl": MagiConfig(),  # the paper's
}  # fmt: skip
