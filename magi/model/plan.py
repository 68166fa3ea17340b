"""What a model costs before it is built: parameters, FLOPs, cache and training memory, from its configuration alone.

A multiplication and an addition are two operations, as in `torch.utils.flop_counter`. Only matrix products are counted,
and only those that are computed: no last observation frame, of the others no more of the last temporal layer than is
seen, the head on masked tokens alone. Knows no device and no clock: how fast the operations run is for measurement.

Symbols: T frames, S stream frames, N tokens per frame, L tokens the transformer sees of it, C token channels, D width,
F MLP width, W head width, E sines and cosines of a time, M masked copies, P masked tokens of a clip, R head repeats.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

from magi.model.config import MagiConfig
from magi.model.head import Solver
from magi.model.magi import Magi

BACKWARD = 2  # a backward pass multiplies twice for each product of the forward pass: by the weights and by the inputs
CALLS_PER_STEP: dict[Solver, int] = {"ddpm": 1, "ddim": 1, "dpm++": 1, "euler": 1, "heun": 2}


@dataclass(frozen=True)
class Flops:
    """Floating point operations, by part; the embeddings count with the transformer."""

    transformer: float
    head: float

    @property
    def total(self) -> float:
        """Both parts."""
        return self.transformer + self.head


def count_parameters(config: MagiConfig) -> dict[str, int]:
    """Parameters by part, counted on a model that is built without memory.

    The paper's model (20 blocks of width 1280, head of 3 x 1024) has 808.7 M here; the paper says about 850 M (A.1) and
    leaves open what the rest is.
    """
    model = Magi.blank(config)
    counts = dict.fromkeys(("embeddings", "spatial layers", "temporal layers", "diffusion head"), 0)
    for name, parameter in model.named_parameters():
        counts[_part(name)] += parameter.numel()
    return counts


def _part(parameter: str) -> str:
    """The part of the model that a parameter belongs to; the last norm goes with the layer it follows."""
    if parameter.startswith("head."):
        return "diffusion head"
    if parameter.startswith("transformer."):
        return "spatial layers" if ".spatial." in parameter else "temporal layers"
    return "embeddings"


def mean_mask_ratio(config: MagiConfig) -> float:
    """Mean of the training mask ratio, a normal about 1 cut to [minimum, 1]; .867 with MAR's .7 and deviation .25.

    E = 1 + sigma (phi(a) - phi(0)) / (Phi(0) - Phi(a)) with a = (minimum - 1) / sigma.
    """
    normal, a = NormalDist(), (config.mask_ratio_min - 1) / config.mask_ratio_std
    if a == 0:
        return 1.0
    return 1 + config.mask_ratio_std * (normal.pdf(a) - normal.pdf(0)) / (normal.cdf(0) - normal.cdf(a))


def mean_predicted_frames(config: MagiConfig) -> float:
    """Frames of a clip that are masked: all T, less what MTF shows complete; a drawn beginning has T / 2 frames."""
    frames, prefix = config.num_frames, config.mtf_clean_prefix_probability
    return frames - prefix * frames / 2 - (1 - prefix) * config.mtf_first_frame_clean


def stream_frames(config: MagiConfig) -> int:
    """Frames the transformer sees of a clip, S: in CTF T - 1 observed and M T masked ones, in MTF T (paper, Fig. 3)."""
    frames = config.num_frames
    return frames - 1 + config.masks_per_clip * frames if config.forcing == "ctf" else frames


def finish_flops(config: MagiConfig, *, temporal: bool) -> float:
    """One token in a layer after its attention: output 2 D^2, MLP 4 D F; a product takes 2 x inputs x outputs."""
    extra = 2 * config.width**2 if temporal and config.temporal_out_proj else 0
    return 2 * config.width**2 + extra + 4 * config.width * config.mlp_width


def layer_flops(config: MagiConfig, attended: int, *, temporal: bool) -> float:
    """One token in a layer: queries, keys and values 6 D^2, attention 4 D for each token attended to, and the rest."""
    return 6 * config.width**2 + 4 * config.width * attended + finish_flops(config, temporal=temporal)


def embedding_flops(config: MagiConfig) -> float:
    """A token's embedding."""
    width = config.width
    return 2 * config.token_channels * width + (4 * width**2 if config.noise_embedding == "channel" else 0)


def transformer_flops(config: MagiConfig, *, frames: int, attended: int) -> float:
    """One forward pass over `frames` stream frames of one video, each temporal layer attending to `attended` frames,
    with nothing left out."""
    layers = layer_flops(config, config.frame_tokens, temporal=False) + layer_flops(config, attended, temporal=True)
    return frames * (config.depth * config.frame_tokens * layers + config.tokens * embedding_flops(config))


def unseen_flops(config: MagiConfig, attended: int) -> float:
    """What a token is spared whose result is not wanted, but which others see in the last temporal layer: all of it but
    keys and values, 4 D^2."""
    return layer_flops(config, attended, temporal=True) - 4 * config.width**2


def commit_flops(config: MagiConfig, past: int) -> float:
    """The pass that commits a frame after `past` others: it ends at the last keys and values."""
    full = transformer_flops(config, frames=1, attended=past + 1)
    return full - config.frame_tokens * unseen_flops(config, past + 1)


def mask_step_flops(config: MagiConfig, past: int, *, chosen: float) -> float:
    """The pass of a mask step after `past` frames that predicts `chosen` tokens.

    The others are needed in the last block as keys and values of its spatial layer, 4 D^2, and for nothing else: in
    time a token attends to its own place alone.
    """
    spatial = layer_flops(config, config.frame_tokens, temporal=False) - 4 * config.width**2
    spared = spatial + layer_flops(config, past + 1, temporal=True)
    full = transformer_flops(config, frames=1, attended=past + 1)
    return full - (config.frame_tokens - chosen) * spared


def head_call_flops(config: MagiConfig) -> float:
    """The head once on one token, modulated already: input 2 C W, per block 4 W^2, output.

    The embeddings of time and condition, and the modulations made of them, are shared between calls.
    """
    width = config.head.width
    outputs = config.token_channels * (2 if config.head.kind == "diffusion" else 1)  # its variance is learned as well
    return 2 * config.token_channels * width + 4 * config.head.depth * width**2 + 2 * width * outputs


def modulation_flops(config: MagiConfig) -> float:
    """Shift, scale and gate of one token at one time: 6 W^2 per block, and 4 W^2 of the output layer."""
    return (6 * config.head.depth + 4) * config.head.width**2


def time_flops(config: MagiConfig) -> float:
    """The head's embedding of one time: 2 E W + 2 W^2."""
    return 2 * config.head.width * (config.head.time_dim + config.head.width)


def condition_flops(config: MagiConfig) -> float:
    """The head's embedding of one token's condition: 2 D W."""
    return 2 * config.width * config.head.width


def forward_flops(config: MagiConfig, *, masked: float | None = None) -> Flops:
    """The training loss of one clip, forward pass only.

    Args:
        config: of the model.
        masked: P; by default its mean over training.
    """
    streams = stream_frames(config)
    hidden = config.tokens * mean_mask_ratio(config) * mean_predicted_frames(config) if masked is None else masked
    rows = config.masks_per_clip * hidden
    per_time = time_flops(config) + modulation_flops(config) + head_call_flops(config)
    per_row = condition_flops(config) + config.head_repeats * per_time
    full = transformer_flops(config, frames=streams, attended=streams)
    predicted = config.masks_per_clip * config.num_frames
    observed, shown = (streams - predicted) * config.frame_tokens, predicted * config.frame_tokens - rows
    # a token that is shown attends beside those that are hidden; what would follow is left out
    finish = finish_flops(config, temporal=True)
    return Flops(full - observed * unseen_flops(config, streams) - shown * finish, rows * per_row)


def training_flops(config: MagiConfig) -> Flops:
    """One clip of training, forward and backward, at the mean mask ratio."""
    forward = forward_flops(config)
    return Flops((1 + BACKWARD) * forward.transformer, (1 + BACKWARD) * forward.head)


def frame_flops(
    config: MagiConfig, *, past: int, mask_steps: int, head_steps: int, solver: Solver | None = None
) -> Flops:
    """One generated frame after `past` cached ones: a pass per mask step, one to commit it, and the head on its tokens.

    Args:
        config: of the model.
        past: frames in the cache.
        mask_steps: as asked for; no more than one per token are made.
        head_steps: denoising steps per token.
        solver: the head's own by default, which calls it once per step.
    """
    steps = min(mask_steps, config.tokens)
    calls = head_steps * (CALLS_PER_STEP[solver] if solver else 1)
    times = head_steps + (solver == "heun")  # it looks at the end of a step too, where the next one begins
    per_token = condition_flops(config) + calls * head_call_flops(config) + times * modulation_flops(config)
    passes = steps * mask_step_flops(config, past, chosen=config.tokens / steps) + commit_flops(config, past)
    return Flops(passes, config.tokens * per_token + steps * times * time_flops(config))


def cache_bytes(config: MagiConfig, *, bytes_per_value: int = 4) -> int:
    """KV cache per frame and video: keys and values of the temporal layers, 2 x depth x L x D; float32 by default."""
    return 2 * config.depth * config.frame_tokens * config.width * bytes_per_value


def training_bytes(parameters: int) -> dict[str, int]:
    """Memory of a training run without its activations: all in float32, also under bf16 autocast (paper A.3)."""
    copies = {"weights": 1, "gradients": 1, "Adam moments": 2, "EMA": 1}
    return {name: 4 * count * parameters for name, count in copies.items()}


def activation_bytes(config: MagiConfig, *, checkpointed: bool = False) -> float:
    """Memory that one clip's forward pass keeps for the backward pass, under bf16 autocast with fused attention.

    Counted from the tensors that autograd saves. A token in a layer: the inputs of both norms in float32 and of the
    linear layers in bfloat16, queries, keys, values and result, 22 D, and the MLP's two inner ones, 4 F; dropout adds a
    byte for each number it may drop. The embedding takes about 10 D, the condition of a masked token 4 D. A noisy copy
    of a masked token in the head: 22 W per block and again around them, its time's waves 4 E, and what the loss keeps
    of it. The last temporal layer is counted whole, though it is pruned.

    Args:
        config: of the model.
        checkpointed: each block keeps its input alone, 4 D per token, and computes the rest again when it is needed: at
            the peak the inputs of all blocks and the whole of one.
    """
    width, inner, head = config.width, config.mlp_width, config.head
    layer = 22 * width + 4 * inner + (2 * width + inner if config.dropout else 0)
    tokens = stream_frames(config) * config.frame_tokens
    copies = config.masks_per_clip * config.head_repeats * config.num_frames * config.tokens * mean_mask_ratio(config)
    of_loss = (6 if head.kind == "flow" else 55) * config.token_channels
    per_copy = 22 * head.width * (head.depth + 1) + 4 * head.time_dim + of_loss
    blocks = 2 * layer + config.depth * 4 * width if checkpointed else 2 * config.depth * layer
    return tokens * (blocks + 10 * width) + copies * (per_copy + 4 * width / config.head_repeats)
