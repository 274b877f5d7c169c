"""Context manager: conversations as append-only logs, and what of them fits a model's window."""
