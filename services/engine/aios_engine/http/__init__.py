"""The HTTP front: text-generation-inference's routes on aiohttp."""
