"""The directory that the containers of a pod share: the datafiles, and the socket on which workers report."""
