"""`python -m modelvault` is the command `modelvault`."""

import sys

from modelvault.cli import main

sys.exit(main())
