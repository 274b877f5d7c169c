"""The tools that need no key and no server: each module holds one and says what it refuses."""
