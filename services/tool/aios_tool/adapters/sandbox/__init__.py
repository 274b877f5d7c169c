"""Where foreign code runs: in a process of its own, with nothing of the host but Python, for a bounded while."""
