"""What the engine decides: plain classes without a model, I/O or a clock."""
