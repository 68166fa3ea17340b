"""How many threads the numerical libraries may use. Knows the environment variables that decide it, and not torch.

OpenMP reads its environment once, when torch is imported: this module is called before that, and so must not import it.
"""

from __future__ import annotations

import os
import sys

# Beyond this the small models of this package only wait for each other's threads.
MAX_DEFAULT_THREADS = 8


def configure_threads(threads: int | None = None) -> None:
    """Let idle threads sleep and decide how many there are.

    Idle OpenMP threads spin by default, which made a small training step 36 times slower beside one other busy process.

    Args:
        threads: how many; overrules `OMP_NUM_THREADS`. None leaves it to that variable, or else to the library, which
            takes one per core, though no more than `MAX_DEFAULT_THREADS`.

    Raises:
        ValueError: `threads` is not positive.
    """
    if threads is not None and threads < 1:
        raise ValueError(f"threads must be at least 1, got {threads}")
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    if threads is not None:
        os.environ["OMP_NUM_THREADS"] = str(threads)
        if "torch" in sys.modules:  # it no longer reads the environment
            sys.modules["torch"].set_num_threads(threads)
    elif usable_cores() > MAX_DEFAULT_THREADS:
        os.environ.setdefault("OMP_NUM_THREADS", str(MAX_DEFAULT_THREADS))


def usable_cores() -> int:
    """Cores that this process may run on, which in a container or a batch job are fewer than there are."""
    if hasattr(os, "sched_getaffinity"):  # Linux alone has it
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
