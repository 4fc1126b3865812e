"""The configuration of a process: its environment, and the secrets and tokens that are mounted as files."""
