"""A TGI-compatible inference server for CPUs: llama.cpp behind text-generation-inference's HTTP API."""

__version__ = "0.1.0"
