"""What the storage manager decides: plain values in, plain values out."""
