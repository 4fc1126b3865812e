"""Inputs that once broke something, here or elsewhere, each with the target that it broke: they are tried in every test run.

`python -m tests.fuzz` prints a line for this list when it finds one.
"""

FOUND: tuple[tuple[str, bytes], ...] = (
    ("webhook", b'{"event":"project.datafile_updated","x":' + b"[" * 30_000),
    ("webhook", b'{"event":"project.datafile_updated","project_id":' + b"9" * 5000 + b"}"),
)
