"""How fast we are beside MAR's own code at the same work, on one CPU thread: `magi bench peer`.

What makes the work the same. MAR makes an image, and we make one frame that has no past, as an image has none:
nothing is cached and nothing is committed. Both have equally many tokens of equally many channels and one token more
(MAR's class, our noise level), the same number of layers of the same width (a block of ours is two of them), the same
head, schedule, mask steps, denoising steps and mask ratio, the same dropout in the same places, the same optimizer, and
random weights. So both evaluate their heads on the same rows, which is checked before anything is timed.

What is left different is how the work is done. MAR's encoder, half of its layers, sees only the tokens that are not
hidden, while all our layers see all of them; every second of ours attends to one frame instead of all tokens. MAR
trains its head on all tokens and drops what is not masked; we run it on the masked ones. The operations counted beside
the times say what that comes to.

Times are those of the one thread's processor: another process that takes turns with it does not count.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from time import thread_time
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from magi.bench.mar import FixedRatio, import_mar, without_gpu
from magi.bench.measure import Spread, alternate, count_operations, machine
from magi.bench.sampling import count_head_operations
from magi.bench.training import typical_draws
from magi.model import plan
from magi.model.config import MagiConfig
from magi.model.head import HeadConfig
from magi.model.magi import Magi
from magi.model.masking import masked_count
from magi.report.console import table
from magi.sampling.config import SampleConfig
from magi.sampling.rollout import generate
from magi.threads import configure_threads
from magi.training.optim import OptimConfig

CPU = torch.device("cpu")
STRIDE = 16  # pixels per latent pixel, which MAR wants told
Model = TypeVar("Model", bound=nn.Module)
Row = tuple[str, str, str, str]  # quantity, value, spread, what it is to be compared with


@dataclass(frozen=True)
class Work:
    """What both do, and how often it is measured."""

    side: int = 8
    """Tokens per row and per column of the image."""
    channels: int = 16
    width: int = 192
    layers: int = 8
    heads: int = 3
    dropout: float = 0.1
    head_depth: int = 3
    head_width: int = 256
    mask_steps: int = 64
    head_steps: int = 100
    batches: tuple[int, ...] = (1, 8)
    train_batch: int = 16
    head_repeats: int = 4
    """Diffusion times per token and training step, MAR's diffusion_batch_mul."""
    repeats: int = 3
    train_repeats: int = 5

    @property
    def tokens(self) -> int:
        """Tokens of the image."""
        return self.side**2


QUICK = Work(
    side=2, channels=4, width=24, layers=4, heads=2, head_depth=1, head_width=16, mask_steps=4, head_steps=5,
    batches=(1, 2), train_batch=2, head_repeats=2, repeats=1, train_repeats=1,
)  # fmt: skip


def run_peer_bench(checkout: Path, *, quick: bool = False, json_path: Path | None = None) -> dict[str, Any]:
    """Measure MAR's code and ours in turn, print a table, and return all results.

    Args:
        checkout: folder of MAR's repository.
        quick: measure so little that the numbers only prove that everything runs.
        json_path: where to save the results.

    Returns:
        ``machine``; ``work``; ``operations`` (non-view aten operations per denoising step); ``counts`` (of both, what
        `count_work` says); ``sampling``, for each batch size, and ``training``: ``seconds`` by side and precision, and
        ``ratio``, how many times faster we are, turn by turn, by our precision. A measured quantity is a summary:
        ``median``, ``min``, ``max``, ``repeats``.

    Raises:
        ValueError: `checkout` holds no code of MAR, its code cannot be imported, or it does other work than ours.
    """
    module, work = import_mar(checkout), QUICK if quick else Work()
    configure_threads(1)
    torch.manual_seed(0)
    if not quick:
        print("MAR's code takes ten minutes or more of one core", flush=True)
    with without_gpu():
        mar, model = build_mar(module, work), build_magi(work)
        report: dict[str, Any] = {
            "machine": machine(CPU),
            "work": {"quick": quick, **asdict(work)},
            "operations": count_denoising(mar, model, work),
            "counts": count_work(mar, model, work),
        }
        report["sampling"] = [measure_sampling(mar, model, work, batch=batch) for batch in work.batches]
        report["training"] = measure_training(mar, model, work)
    print(show(report))
    if json_path is not None:
        json_path.parent.mkdir(parents=True, exist_ok=True)
        json_path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return report


def build_magi(work: Work) -> Magi:
    """Our model of this work, in evaluation mode."""
    config = MagiConfig(
        latent_channels=work.channels, latent_height=work.side, latent_width=work.side, patch=1, num_frames=1,
        depth=work.layers // 2, width=work.width, mlp_width=4 * work.width, heads=work.heads, dropout=work.dropout,
        head=HeadConfig(depth=work.head_depth, width=work.head_width), head_repeats=work.head_repeats,
    )  # fmt: skip
    return fill_zeros(Magi(config)).eval()


def build_mar(module: Any, work: Work) -> Any:
    """MAR's model of this work, in evaluation mode. Its buffer is one token, where by default the class fills 64."""
    half = work.layers // 2
    model = module.MAR(
        img_size=work.side * STRIDE, vae_stride=STRIDE, patch_size=1, vae_embed_dim=work.channels, buffer_size=1,
        encoder_embed_dim=work.width, encoder_depth=half, encoder_num_heads=work.heads,
        decoder_embed_dim=work.width, decoder_depth=work.layers - half, decoder_num_heads=work.heads,
        mlp_ratio=4, attn_dropout=work.dropout, proj_dropout=work.dropout,
        diffloss_d=work.head_depth, diffloss_w=work.head_width, num_sampling_steps=str(work.head_steps),
        diffusion_batch_mul=work.head_repeats,
    )  # fmt: skip
    model.mask_ratio_generator = FixedRatio(plan.mean_mask_ratio(MagiConfig()))
    return fill_zeros(model).eval()


def fill_zeros(model: Model) -> Model:
    """Give parameters that begin as zero small random values: zeros would hide work, or save it."""
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                parameter.normal_(std=0.02)
    return model


def sample_mar(mar: Any, work: Work, batch: int, *, bf16: bool = False) -> Tensor:
    """MAR's latents (B, C, h, w)."""
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        latents: Tensor = mar.sample_tokens(bsz=batch, num_iter=work.mask_steps, cfg=1.0, temperature=1.0)
    return latents


def sample_magi(model: Magi, work: Work, batch: int, *, compiled: bool = False) -> Tensor:
    """Our latents (B, C, h, w): a first frame."""
    settings = SampleConfig(
        mask_steps=work.mask_steps, head_steps=work.head_steps, solver="ddpm", compiled_head=compiled
    )
    (frame,) = generate(model, None, num_frames=1, seeds=range(batch), settings=settings)
    return frame


def training_steps(mar: Any, model: Magi, work: Work, *, bf16: bool = True) -> dict[str, Callable[[], object]]:
    """A whole optimizer step of each side, random numbers included, on latents that are there; under bfloat16 autocast
    or in float32.

    Both models are put into training mode and change with every step.
    """
    optim, config, batch = OptimConfig(), model.config, work.train_batch
    images = torch.randn(batch, work.channels, work.side, work.side)
    classes, interval = torch.zeros(batch, dtype=torch.long), torch.ones(batch, dtype=torch.long)
    losses: dict[str, tuple[nn.Module, Callable[[], Tensor]]] = {
        "mar": (mar, lambda: mar(images, classes)),
        "magi": (model, lambda: model(images[:, None], interval, typical_draws(config, range(batch))[0])["loss"]),
    }

    def step_of(trained: nn.Module, loss_of: Callable[[], Tensor]) -> Callable[[], object]:
        trained.train()
        optimizer = torch.optim.AdamW(
            trained.parameters(), lr=optim.lr, betas=optim.betas, weight_decay=optim.weight_decay
        )

        def step() -> None:
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                loss = loss_of()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(trained.parameters(), optim.clip)
            optimizer.step()

        return step

    return {name: step_of(*side) for name, side in losses.items()}


@contextmanager
def head_rows(mar: Any, model: Magi) -> Iterator[dict[str, int]]:
    """Count the rows, tokens times diffusion times, that the two heads are evaluated on while the block lasts."""
    rows = {"mar": 0, "magi": 0}
    net, head = mar.diffloss.net, model.head
    network, forward, sample = net.forward, head.forward, head.sample

    def mar_forward(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        rows["mar"] += len(x)
        result: Tensor = network(x, *args, **kwargs)
        return result

    def magi_forward(x: Tensor, t: Tensor, z: Tensor) -> Tensor:
        rows["magi"] += t.numel()
        return forward(x, t, z)

    def magi_sample(z: Tensor, noise: Tensor, **settings: Any) -> Tensor:
        rows["magi"] += len(z) * int(settings["num_steps"])
        return sample(z, noise, **settings)

    net.forward, head.forward, head.sample = mar_forward, magi_forward, magi_sample  # type: ignore[method-assign]
    try:
        yield rows
    finally:
        del net.forward, head.forward, head.sample


def count_work(mar: Any, model: Magi, work: Work) -> dict[str, Any]:
    """What one image and one training step of each side are, counted. Takes a training step.

    Returns:
        ``sampling``: ``latents`` made, ``head_rows`` and ``gflops``; ``training``: ``masked`` tokens of an image,
        ``head_rows`` and ``gflops``. Each by side. Operations are as torch counts them: matrix products only.

    Raises:
        ValueError: MAR makes other latents, evaluates its head on other rows or masks other tokens.
    """
    images: dict[str, Callable[[], Tensor]] = {
        "mar": lambda: sample_mar(mar, work, 1),
        "magi": lambda: sample_magi(model, work, 1),
    }
    latents, rows, flops = {}, {}, {}
    for name, run in images.items():
        with head_rows(mar, model) as counted, FlopCounterMode(display=False) as counter:
            latents[name] = run().numel()
        rows[name], flops[name] = counted[name], counter.get_total_flops() / 1e9
    sampling = {"latents": latents, "head_rows": rows, "gflops": flops}

    order = torch.arange(work.tokens)[None]
    masked = {
        "mar": int(mar.random_masking(torch.zeros(1, work.tokens, 1), order).sum()),
        "magi": masked_count(work.tokens, plan.mean_mask_ratio(model.config)),
    }
    for what, each in {"numbers per image": latents, "rows of the head": rows, "masked tokens": masked}.items():
        if each["mar"] != each["magi"]:
            both = f"MAR {each['mar']:,}, ours {each['magi']:,}"
            raise ValueError(f"not the same work: {what}, {both}; is this MAR's own code?")

    rows, flops = {}, {}
    for name, step in training_steps(mar, model, work).items():
        with head_rows(mar, model) as counted, FlopCounterMode(display=False) as counter:
            step()
        rows[name], flops[name] = counted[name], counter.get_total_flops() / 1e9
    mar.eval()
    model.eval()
    return {"sampling": sampling, "training": {"masked": masked, "head_rows": rows, "gflops": flops}}


def count_denoising(mar: Any, model: Magi, work: Work) -> dict[str, float]:
    """Non-view aten operations per denoising step of one token, what a call sets up included."""
    condition = torch.zeros(1, work.width)
    with torch.no_grad():
        theirs = count_operations(lambda: mar.diffloss.sample(condition)) / work.head_steps
    return {"mar": theirs, "magi": count_head_operations(model.head, steps=work.head_steps, rows=1)["ddpm"]["all"]}


def measure_sampling(mar: Any, model: Magi, work: Work, *, batch: int) -> dict[str, Any]:
    """Seconds of a batch of images. MAR under autocast, which at few rows costs more than it saves, has its rival in a
    bfloat16 backbone with a float32 head, which has to beat the faster of MAR's two."""
    half = copy.deepcopy(model).backbone_to(torch.bfloat16)
    ours = {
        f"magi {backbone}{', compiled head' if compiled else ''}": partial(sample_magi, *side, compiled=compiled)
        for backbone, side in {"float32": (model, work, batch), "bf16 backbone": (half, work, batch)}.items()
        for compiled in (False, True)
    }
    theirs: dict[str, Callable[[], object]] = {
        "mar float32": partial(sample_mar, mar, work, batch),
        "mar bf16 autocast": partial(sample_mar, mar, work, batch, bf16=True),
    }
    seconds = alternate({**theirs, **ours}, repeats=work.repeats, device=CPU, clock=thread_time)
    pairs = {side.removeprefix("magi "): (list(theirs) if "bf16" in side else ["mar float32"], side) for side in ours}
    return {"batch": batch, **compare(seconds, pairs)}


def measure_training(mar: Any, model: Magi, work: Work) -> dict[str, Any]:
    """Seconds of an optimizer step."""
    runs = {
        f"{side} {name}": step
        for name, bf16 in (("float32", False), ("bf16 autocast", True))
        for side, step in training_steps(mar, model, work, bf16=bf16).items()
    }
    seconds = alternate(runs, repeats=work.train_repeats, device=CPU, clock=thread_time)
    pairs = {name: ([f"mar {name}"], f"magi {name}") for name in ("float32", "bf16 autocast")}
    return {"batch": work.train_batch, **compare(seconds, pairs)}


def compare(seconds: Mapping[str, Spread], pairs: Mapping[str, tuple[Sequence[str], str]]) -> dict[str, Any]:
    """Times and ratios: how many times faster the second of a pair is than the fastest of the first, turn by turn."""
    ratios = {}
    for name, (theirs, ours) in pairs.items():
        fastest = np.min([seconds[their].values for their in theirs], axis=0)
        ratios[name] = Spread(tuple((fastest / np.array(seconds[ours].values)).tolist())).summary()
    return {"seconds": {name: spread.summary() for name, spread in seconds.items()}, "ratio": ratios}


def show(report: Mapping[str, Any]) -> str:
    """The report for people."""
    described = "  ".join(f"{name} {value}" for name, value in report["machine"].items())
    work = report["work"]
    what = (
        f"{work['side']} x {work['side']} tokens of {work['channels']}, {work['layers']} layers of {work['width']}, "
        f"head {work['head_depth']} x {work['head_width']}, {work['mask_steps']} x {work['head_steps']} steps"
    )
    quick = ["quick: these numbers only prove that everything runs"] if work["quick"] else []
    return "\n".join([f"beside MAR's code: {what}", described, *quick, table(list(_rows(report)), words=(0, 2, 3))])


def _rows(report: Mapping[str, Any]) -> Iterator[Row]:
    yield ("", "median", "min - max", "")
    for measured in report["sampling"]:
        yield from _measured(measured, f"an image, batch {measured['batch']}", per=measured["batch"])
    yield from _measured(report["training"], f"a training step, batch {report['training']['batch']}", per=1)
    counts, operations = report["counts"], report["operations"]
    yield ("operations per denoising step", f"{operations['magi']:.1f}", "", f"MAR {operations['mar']:.1f}")
    for part, what in (("sampling", "per image"), ("training", "per training step")):
        for name, quantity in (("head_rows", "rows of the head"), ("gflops", "GFLOP")):
            both = counts[part][name]
            yield (f"{quantity} {what}", f"{both['magi']:,.4g}", "", f"MAR {both['mar']:,.4g}")


def _measured(measured: Mapping[str, Any], what: str, *, per: int) -> Iterator[Row]:
    for name, summary in measured["seconds"].items():
        value, spread = _told({key: summary[key] * 1e3 / per for key in ("median", "min", "max")})
        yield (f"ms for {what}, {name}", value, spread, "")
    for name, summary in measured["ratio"].items():
        yield (f"  times faster than MAR, {name}", *_told(summary), "")


def _told(summary: Mapping[str, float]) -> tuple[str, str]:
    return f"{summary['median']:,.4g}", f"{summary['min']:,.4g} - {summary['max']:,.4g}"
