"""Does this installation keep its promises? Faults are provoked in real runs, on this machine: `magi selftest`."""
