"""Agent scheduler: which model call runs next, and on which worker."""
