"""The daemon that keeps Optimizely's datafile fresh on a shared volume. Its API is its environment, HTTP, commands and volume."""
