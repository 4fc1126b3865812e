"""What all network code shares: listening sockets, connection limits, client sessions, name resolution, work in threads."""
