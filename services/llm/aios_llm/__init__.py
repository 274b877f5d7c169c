"""LLM worker: one process per inference endpoint; runs model calls and streams their tokens to the callers."""
