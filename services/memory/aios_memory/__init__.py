"""The memory manager: notes of agents and of pools, durable, shared by grant, found by meaning and by words."""
