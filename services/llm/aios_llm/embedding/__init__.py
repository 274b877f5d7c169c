"""`llm.embed`: texts of many callers, gathered into the batches an embedding server wants."""
