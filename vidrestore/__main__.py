"""``python -m vidrestore``: the same as the command ``vidrestore``."""

import sys

from vidrestore.cli import main

sys.exit(main())
