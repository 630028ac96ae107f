"""Makes `python -m dagr_jax.cli` the same as `dagr`."""

import sys

from dagr_jax.cli import main

sys.exit(main())
