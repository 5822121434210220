"""Run the command `vidrl` by `python -m vidrl`."""

import sys

from vidrl.lookup.user_modules import leave_working_folder

leave_working_folder()

# Imported only now, so that no file in the working folder can take the place of a library.
from vidrl.cli import main  # noqa: E402

sys.exit(main())
