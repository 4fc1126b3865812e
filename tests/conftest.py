"""What holds for every test."""

from hypothesis import settings

# The same examples on every run: a build that is red is red for its change. `make fuzz` looks further.
settings.register_profile("build", derandomize=True, deadline=None, database=None)
settings.load_profile("build")
