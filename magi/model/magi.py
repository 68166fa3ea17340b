"""MAGI: embed the streams, transform, predict each masked token's value by diffusion.

One module for training (`forward`) and generation (`predict`, `commit`). Knows latents, not pixels; no files, no
optimizer.

Shapes: B videos, M masked copies, T frames, N tokens per frame, P masked tokens of a clip, C token channels, D width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn

from magi.model.cache import KVCache
from magi.model.config import MagiConfig
from magi.model.draws import TrainingDraws
from magi.model.embeddings import StreamEmbedding, patchify
from magi.model.forcing import CLEAN, COMMITTED_KIND, LAYOUTS, MASKED
from magi.model.head import DiffusionHead
from magi.model.transformer import Transformer, take


class Finished(NamedTuple):
    """Finished frames, as later ones are to see them."""

    tokens: Tensor
    """(B, F, N, C), complete, with the noise that is added to them."""
    time: Tensor
    """(F,) their temporal positions, on the CPU."""
    noise_level: int = CLEAN
    """Id of that noise."""


class Magi(nn.Module):
    """The masked autoregressive video model of the paper."""

    def __init__(self, config: MagiConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = StreamEmbedding(
            config.token_channels,
            config.width,
            grid=config.grid,
            intervals=config.max_interval,
            noise_levels=config.noise_buckets + 1,
            noise_embedding=config.noise_embedding,
        )
        self.transformer = Transformer(
            depth=config.depth,
            width=config.width,
            mlp_width=config.mlp_width,
            heads=config.heads,
            dropout=config.dropout,
            temporal_out_proj=config.temporal_out_proj,
        )
        self.head_position = nn.Parameter(torch.empty(config.tokens, config.width))
        self.reset_parameters()
        # the head initialises itself: after the above, which would undo its zeros
        self.head = DiffusionHead(config.token_channels, config.width, config.head)

    @classmethod
    def blank(cls, config: MagiConfig) -> Magi:
        """A model whose weights have shapes and types and no memory, for `fill`."""
        with torch.device("meta"):
            return cls(config)

    def fill(self, state: Mapping[str, Tensor]) -> Magi:
        """Take these weights as they are: none were drawn before, and none are there twice.

        Args:
            state: by name, in their shapes, as (D, 3 D) for a layer's queries, keys and values.

        Raises:
            RuntimeError: they are not those of this model.
        """
        self.load_state_dict(dict(state), assign=True)
        self.embedding.spatial = self.embedding.places()
        return self

    def reset_parameters(self) -> None:
        """MAR's initialisation: tables normal with deviation .02, weights Xavier-uniform, biases zero, norms one."""
        embedding = self.embedding
        for table in (embedding.mask_token, embedding.position, self.head_position):
            nn.init.normal_(table, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)

    @property
    def token_dtype(self) -> torch.dtype:
        """Type of the tokens that are generated: that of the head's weights."""
        return self.head.cond_embed.weight.dtype

    def backbone_to(self, dtype: torch.dtype) -> Magi:
        """Embedding and transformer in another type, for generation: bfloat16 halves what a pass reads, and the head
        and the tokens, whose errors would add up over denoising steps, stay as they are."""
        self.embedding.to(dtype)
        self.transformer.to(dtype)
        self.head_position = nn.Parameter(self.head_position.detach().to(dtype), self.head_position.requires_grad)
        return self

    def forward(self, latents: Tensor, interval: Tensor, draws: TrainingDraws) -> dict[str, Tensor]:
        """Training loss of one batch (paper §3; MAR's masked diffusion loss).

        Args:
            latents: (B, T, C', h, w) normalised latents of complete frames.
            interval: (B,) int, the frame interval used, 1-based.
            draws: everything random about the step.

        Returns:
            ``loss`` and its parts, scalars in float32, averaged over masked tokens.

        Raises:
            ValueError: latents of another shape than the configuration's.
        """
        self._check(latents, interval)
        tokens = patchify(latents, self.config.patch)  # (B, T, N, C)
        z = self.conditions(tokens, interval, draws, chosen=draws.masked_tokens)  # (B, M, P, D)
        target = take(rearrange(tokens, "b t n c -> b (t n) c"), rearrange(draws.masked_tokens, "b m p -> b (m p)"))
        losses = self.head.loss(
            rearrange(z, "b m p d -> (b m p) d"),
            rearrange(target, "b n c -> (b n) c"),
            rearrange(draws.head_time, "r b m p -> r (b m p)"),
            rearrange(draws.head_noise, "r b m p c -> r (b m p) c"),
        )
        parts = {name: value.mean() for name, value in losses.items()}
        return {
            "loss": torch.stack(list(parts.values())).sum(),
            **{name: part.detach() for name, part in parts.items()},
        }

    def conditions(
        self, tokens: Tensor, interval: Tensor, draws: TrainingDraws, *, chosen: Tensor | None = None
    ) -> Tensor:
        """Conditions of the head for tokens of all predicted frames at once.

        Args:
            tokens: (B, T, N, C) of complete frames.
            interval: (B,) int, 1-based.
            draws: everything random about the step.
            chosen: (B, M, P) tokens whose conditions are wanted, frame times N plus place in the frame; None is all.

        Returns:
            (B, M, P, D), or of all tokens (B, M, T, N, D).
        """
        config = self.config
        if chosen is None:
            everything = torch.arange(config.num_frames * config.tokens, device=tokens.device)
            copies = draws.masked_tokens.shape[1]
            z = self.conditions(tokens, interval, draws, chosen=everything.expand(len(tokens), copies, -1))
            return rearrange(z, "b m (t n) d -> b m t n d", n=config.tokens)
        streams = LAYOUTS[config.forcing](tokens, draws)
        x = self.embedding(
            streams.tokens, streams.masked, streams.kind, streams.frame, streams.noise_level, interval
        )  # (B, S, L, D)
        copies, places = chosen.shape[1], chosen % config.tokens
        copy = torch.arange(copies, device=chosen.device)[:, None]
        frame = copy * config.num_frames + chosen // config.tokens  # of all predicted ones
        z = self.transformer(
            x,
            temporal_mask=streams.temporal_mask,
            wanted=streams.predicted,
            chosen=rearrange(frame * config.frame_tokens + places, "b m p -> b (m p)"),
        )
        return rearrange(z, "b (m p) d -> b m p d", m=copies) + self.head_position[places]

    def predict(
        self,
        cache: KVCache,
        tokens: Tensor,
        masked: Tensor,
        *,
        time: float,
        interval: Tensor,
        chosen: Tensor | None = None,
        finished: Finished | None = None,
    ) -> Tensor:
        """The head's condition for tokens of one frame under construction, which follows the committed frames.

        Args:
            cache: the committed frames; advanced by those of `finished` alone.
            tokens: (B, N, C) values of the tokens unmasked so far.
            masked: (B, N) bool, tokens still hidden.
            time: temporal position of the frame.
            interval: (B,) int, 1-based.
            chosen: (B, n) the tokens whose conditions are wanted; None is all, in order.
            finished: frames between the committed ones and this one, to commit in the same pass.

        Returns:
            (B, n, D).
        """
        when = torch.tensor([time], device="cpu", dtype=torch.float64)
        x = self._embed_frames(tokens[:, None], masked[:, None], MASKED, when, CLEAN, interval)
        if finished is not None:
            x = torch.cat([self._embed_finished(finished, interval), x], dim=1)
        if chosen is None:
            chosen = torch.arange(self.config.tokens, device=tokens.device).expand(len(tokens), -1)
        return self.transformer(x, cache=cache, wanted=1, chosen=chosen) + self.head_position[chosen]

    def commit(self, cache: KVCache, finished: Finished, *, interval: Tensor) -> None:
        """Add finished frames to the past that later frames see, in a pass of their own.

        Args:
            cache: is advanced by the frames.
            finished: the frames.
            interval: (B,) int, 1-based.
        """
        self.transformer(self._embed_finished(finished, interval), cache=cache, wanted=0)

    def new_cache(self, batch: int, max_frames: int) -> KVCache:
        """An empty cache for `batch` videos of up to `max_frames` frames, the one under construction included."""
        config, weight = self.config, self.head_position
        return KVCache(
            layers=config.depth,
            batch=batch,
            tokens=config.frame_tokens,
            max_frames=max_frames,
            heads=config.heads,
            head_width=config.width // config.heads,
            dtype=weight.dtype,
            device=weight.device,
        )

    def _embed_finished(self, finished: Finished, interval: Tensor) -> Tensor:
        tokens, time, noise_level = finished
        complete = torch.zeros(tokens.shape[:3], dtype=torch.bool, device=tokens.device)
        kind = COMMITTED_KIND[self.config.forcing]
        return self._embed_frames(tokens, complete, kind, time, noise_level, interval)

    def _embed_frames(
        self, tokens: Tensor, masked: Tensor, kind: int, time: Tensor, noise_level: int, interval: Tensor
    ) -> Tensor:
        batch, frames = tokens.shape[:2]
        device = tokens.device
        kinds = torch.full((frames,), kind, device=device)
        levels = torch.full((batch, frames), noise_level, device=device)
        return self.embedding(tokens, masked, kinds, time, levels, interval)  # (B, F, L, D)

    def _check(self, latents: Tensor, interval: Tensor) -> None:
        config = self.config
        expected = (config.num_frames, config.latent_channels, config.latent_height, config.latent_width)
        if tuple(latents.shape[1:]) != expected:
            raise ValueError(
                f"latents are {tuple(latents.shape[1:])} (frames, channels, height, width); the model takes {expected}"
            )
        on_cpu = latents.device.type == "cpu"  # elsewhere the look would stall the device
        if on_cpu and not ((interval >= 1) & (interval <= config.max_interval)).all():
            raise ValueError(f"intervals {interval.tolist()} are outside 1..{config.max_interval}")
