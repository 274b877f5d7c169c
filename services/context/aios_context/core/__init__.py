"""What the context manager decides: plain functions on frozen data, no I/O, time passed in."""
