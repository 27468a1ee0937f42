"""`python -m sgl_indexcache.nano`: see command_line.py."""

import sys

from sgl_indexcache.nano.command_line import main

sys.exit(main())
