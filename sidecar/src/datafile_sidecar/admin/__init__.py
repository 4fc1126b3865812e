"""The admin port: probes, metrics, status and the status page. It is read-only."""
