"""The bodies of calls and results, one module a manager. Unknown fields are refused, by name."""
