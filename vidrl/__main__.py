"""`python -m vidrl` is `vidrl`."""

import sys

from vidrl.cli import main

sys.exit(main())
