"""`python -m gen_dist.cli` is `gen-dist`."""

import sys

from gen_dist.cli import main

sys.exit(main())
