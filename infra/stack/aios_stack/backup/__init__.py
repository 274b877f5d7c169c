"""All that an installation keeps for one tenant, in one file, and back."""
