"""Inputs that once broke something, each with the target that it broke: they are tried in every test run.

`python -m tests.fuzz` prints a line for this list when it finds one.
"""

FOUND: tuple[tuple[str, bytes], ...] = (("webhook", b"[" * 30_000), ("webhook", b'{"project_id":' + b"9" * 5000 + b"}"))
