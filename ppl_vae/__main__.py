"""`python -m ppl_vae` is the command line, for whoever has no `ppl-vae` on the path."""

from __future__ import annotations

import sys

from ppl_vae.cli import main

if __name__ == "__main__":
    sys.exit(main())
