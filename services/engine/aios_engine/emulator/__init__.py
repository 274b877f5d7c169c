"""An engine that takes the time of a GPU without having one: continuous batching on a virtual or a real clock."""
