"""Prints the reference of all options: `python -m tgi.config > docs/options.md`."""

import sys

from tgi.config.documentation import options_page

sys.stdout.write(options_page())
