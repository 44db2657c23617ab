"""The benchmarks whose figures the documentation quotes: against real peers, in one run, on one server."""
