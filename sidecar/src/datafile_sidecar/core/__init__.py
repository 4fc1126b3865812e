"""What the sidecar decides, apart from how: values in, values or domain errors out. No I/O, clock, logger or environment."""
