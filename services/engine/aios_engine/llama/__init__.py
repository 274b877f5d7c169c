"""llama.cpp through ctypes: the layout of its structs, and a model with its context."""
