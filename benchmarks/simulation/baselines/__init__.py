"""Published policies, each written from its own description; what that leaves open, the file says."""
