"""`make demo`: a flag flips at Optimizely, and a moment later the workers of a running app use its new value."""
