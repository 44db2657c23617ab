"""What every test has: real servers on demand, and a guard that nothing is left behind."""

pytest_plugins = ["servers.fixtures", "guard"]
