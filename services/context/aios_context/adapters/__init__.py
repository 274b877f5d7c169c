"""The real things behind the ports: JetStream buckets, and other kernel services."""
