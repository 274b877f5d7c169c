"""The vector store: one port (`port`), two adapters (`qdrant_edge`, `qdrant_server`), chosen by `settings`.

The adapters need the extras `aios-kit[vectors]`; a service that keeps no vectors imports none of it.
"""
