"""The commands that the stack adds to `aios`, one module each."""
