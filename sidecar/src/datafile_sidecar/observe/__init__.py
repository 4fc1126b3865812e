"""Logging and metrics: each event of the sidecar as a log line and as counters."""
