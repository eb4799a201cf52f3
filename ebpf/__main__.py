"""``python -m ebpf``."""

import sys

try:
    from ebpf.cli import main

    sys.exit(main())
except KeyboardInterrupt:  # while it was being imported
    sys.exit(130)
