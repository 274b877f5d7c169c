"""What the tool manager decides: plain classes, no I/O, time passed in."""
