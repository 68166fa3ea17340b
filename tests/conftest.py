"""One thread for each test process, set before torch is imported: waiting threads would slow every other process."""

from collections.abc import Iterator

import pytest

from magi.threads import configure_threads

configure_threads(1)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Whatever a test asked for: a fork of a process that has used more threads waits for them for ever."""
    yield
    configure_threads(1)
