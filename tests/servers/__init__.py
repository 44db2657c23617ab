"""Real servers that tests and benchmarks talk to: started on free loopback ports, killed at the end."""
