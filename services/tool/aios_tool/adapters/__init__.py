"""The real things behind the ports: key-value buckets, agents, MCP servers, the sandbox."""
