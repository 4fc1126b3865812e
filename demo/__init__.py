"""`make demo`: a flag flips at Optimizely, and the workers of a running app decide by it a moment later."""
