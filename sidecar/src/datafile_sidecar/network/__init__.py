"""Sockets, connection limits and name resolution, shared by all that talks to the network."""
