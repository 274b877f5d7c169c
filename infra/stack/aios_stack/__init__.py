"""The embedded default: every part of AIOS on one machine, from one command."""
