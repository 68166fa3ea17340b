"""One thread for each test process, set before torch is imported: waiting threads would slow every other process."""

from magi.threads import configure_threads

configure_threads(1)
