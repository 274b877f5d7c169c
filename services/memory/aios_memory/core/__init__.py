"""What the memory manager decides: no I/O, no clock."""
