"""One key's datafile: when to fetch it, whether to publish it, and what other pods know of it."""
