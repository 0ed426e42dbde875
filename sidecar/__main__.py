"""`python -m sidecar` is the command."""

import sys

from sidecar.cli import main

sys.exit(main())
