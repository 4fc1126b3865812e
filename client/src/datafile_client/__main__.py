"""`python -m datafile_client explain`: why a user gets a decision, by the datafile on the volume."""

import os
import sys

from datafile_client._explain_command import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
