"""The wire contract of AIOS on NATS: what every part, in any language, agrees on. Imports nothing of ours."""

PROTOCOL_VERSION = 1
"""Value of the `Aios-Proto` header. A service refuses calls of a version it does not know."""
