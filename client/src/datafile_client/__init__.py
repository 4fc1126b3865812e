"""Keeps an Optimizely instance in step with the datafile that the sidecar publishes."""
