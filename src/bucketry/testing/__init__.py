"""What tests need, ours and our users': contract suites, fault layers, virtual time."""
