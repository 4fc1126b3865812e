"""The command line: one module a command, and the daemon that `run` starts."""
