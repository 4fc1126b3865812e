"""What the sidecar tells about itself: events as log lines and metrics."""
