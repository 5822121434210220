"""`python -m vidrl` is `vidrl`."""

import sys

from vidrl.lookup.user_modules import leave_working_folder

leave_working_folder()

from vidrl.cli import main  # noqa: E402  after the working folder, whose files must not be imported, has left the path

sys.exit(main())
