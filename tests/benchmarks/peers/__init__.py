"""What the benchmark of serving compares with: other servers, and no server at all. Each is a process of its own."""
