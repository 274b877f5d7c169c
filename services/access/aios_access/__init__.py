"""Access manager: who may connect, and who may do what. The first hop of every system call."""
