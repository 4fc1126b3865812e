"""The checks of `datafile-sidecar check`, a module for each part of the set-up."""
