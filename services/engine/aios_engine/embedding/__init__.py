"""Turns texts into vectors on a CPU, and serves them as text-embeddings-inference does."""
