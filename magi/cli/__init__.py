"""The command line: `magi VERB ...`. Knows the verbs and how errors are told; what a verb does is in its own module.

Nothing heavy is imported before a verb needs it, and the number of threads is settled before torch is.
"""

from __future__ import annotations

import os
import re
import select
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from importlib import import_module

from magi import __version__
from magi.threads import configure_threads

TROUBLE = {
    "out of memory": "out of memory; take smaller batches, or a smaller model: ",
    "DataLoader worker (pid": "a process that loads clips died; checkpoints are whole, run the same command again: ",
    "by peer": "another process of this training has ended, and what it said tells why; checkpoints are whole, run the "
    "same command again: ",
}
"""What torch raises as it raises bugs, by its sign, and is none: what the user is told before it."""

VERBS: dict[str, tuple[str, str]] = {
    "demo": ("magi.cli.demo", "see the shipped model at work, and a toy model learn, on one page"),
    "train": ("magi.cli.train", "train a model on a folder of videos, or on the procedural world"),
    "tokenizer": ("magi.cli.tokenizer", "train, convert, check or measure the tokenizer that a model works in"),
    "data": ("magi.cli.data", "index a data set, and report what training makes of it: magi data index, report"),
    "encode": ("magi.cli.encode", "turn videos into latents once, for training to read: a latent cache"),
    "world": ("magi.cli.world", "write videos of the procedural world, with the exact states"),
    "record": ("magi.cli.record", "write videos of ViZDoom gameplay, with the action of every frame"),
    "sample": ("magi.cli.sample", "continue videos, or make them from nothing, with a trained model"),
    "evaluate": ("magi.cli.evaluate", "measure how good a model's continuations are, frame by frame"),
    "reproduce": ("magi.cli.reproduce", "ask the questions of the paper again, in miniature"),
    "report": ("magi.cli.report", "make one page of results: claims, verdicts, tables, curves and films"),
    "checkpoint": ("magi.cli.checkpoint", "list, verify and export what a training saved"),
    "info": ("magi.cli.info", "what a preset or a model costs: parameters, FLOPs, memory"),
    "bench": ("magi.cli.bench", "measure how fast a model is on this machine"),
    "selftest": ("magi.selftest.command", "provoke faults in real runs, and see that no work is lost"),
}
"""Module, whose `main` takes the arguments after the verb and returns the exit code, and what it is for."""

MISUSE, INTERRUPTED, CLOSED = 2, 130, 141  # exit codes: an error the user can mend, Ctrl-C and SIGPIPE as shells count


def usage() -> str:
    """What `magi --help` prints."""
    verbs = "\n".join(f"  {name:<10} {purpose}" for name, (_, purpose) in VERBS.items())
    return f"""usage: magi VERB ...

Masked autoregressive video generation with Complete Teacher Forcing.

{verbs}

magi VERB --help explains a verb and gives an example. Errors are one line; --debug adds the traceback.

A first model of your own videos:
  magi train tiny --data path/to/videos --out runs/mine
  magi sample runs/mine --context path/to/a/video.mp4 --out samples
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; `argv` is `sys.argv[1:]` unless given."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] in (["--version"], ["-V"]):
        print(f"magi {__version__}")
        return 0
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage(), end="", file=sys.stdout if arguments else sys.stderr)
        return 0 if arguments else MISUSE
    verb, rest = arguments[0], arguments[1:]
    if verb not in VERBS:
        near = get_close_matches(verb, VERBS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(VERBS)}"
        print(f"magi: unknown verb {verb!r}; {hint}", file=sys.stderr)
        return MISUSE
    return _run(verb, rest)


def _run(verb: str, arguments: list[str]) -> int:
    def tell(kind: str, message: object) -> None:
        print(f"magi {verb}: {kind}{' '.join(str(message).split())}", file=sys.stderr)

    told: set[str] = set()  # of warnings: each source of one folder would repeat what is wrong with it

    def warn(message: Warning | str, *_args: object, **_rest: object) -> None:
        if str(message) not in told:
            told.add(str(message))
            tell("warning: ", message)

    with warnings.catch_warnings():
        warnings.showwarning = warn
        try:
            configure_threads(_threads(arguments))
            with _trusting("--trust-code" in arguments):
                code: int = import_module(VERBS[verb][0]).main(arguments)
            sys.stdout.flush()
        except (ValueError, OSError, ImportError) as error:
            if isinstance(error, BrokenPipeError) and _reader_has_gone():
                return CLOSED
            if "--debug" in arguments:
                raise
            tell("", error)
            return MISUSE
        except RuntimeError as error:
            known = [said for sign, said in TROUBLE.items() if sign in str(error)]
            if "--debug" in arguments or not known:
                raise
            tell(known[0], error)
            return MISUSE
        except KeyboardInterrupt:
            tell("", "interrupted")
            return INTERRUPTED
    return code


def _reader_has_gone() -> bool:
    """Whether the pipe that broke is that of the output, whose reader, head say, has enough; it is closed then."""
    output = 1
    asked = select.poll()
    asked.register(output, 0)
    if not any(event & select.POLLERR for _, event in asked.poll(0)):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), output)  # or Python's last flush would complain
    return True


@contextmanager
def _trusting(asked: bool) -> Iterator[None]:
    """For the length of a command, in its worker processes too, what --trust-code says; `published/trust.py` obeys."""
    before = os.environ.get("MAGI_TRUST_CODE")
    if asked:
        os.environ["MAGI_TRUST_CODE"] = "1"
    try:
        yield
    finally:
        if asked and before is None:
            del os.environ["MAGI_TRUST_CODE"]


def _threads(arguments: Sequence[str]) -> int | None:
    """The number after --threads, which is needed before torch; the verb refuses what is not a number."""
    found = re.search(r"(?:^|\0)--threads[=\0](\d+)(?:\0|$)", "\0".join(arguments))
    return int(found[1]) if found else None
