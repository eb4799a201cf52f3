"""``python -m etltd``."""

import sys

from etltd.cli import main

sys.exit(main())
