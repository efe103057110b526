"""`python -m tgi` is the command `tgi`."""

import sys

from tgi.cli import main

sys.exit(main())
