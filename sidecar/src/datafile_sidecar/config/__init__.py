"""The configuration of a process: its environment, and mounted secrets and tokens."""
