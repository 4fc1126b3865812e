"""The admin port: probes, metrics, status and the page. It only shows; nothing can be changed there."""
