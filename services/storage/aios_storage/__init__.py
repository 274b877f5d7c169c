"""The storage manager: what agents keep for the long term, and who may see it."""
