#!/usr/bin/env python3
"""`python -m quantize IN OUT FORMAT`, as it is documented since 0.2: the same as `python -m tools quantize`."""

import sys

from tools import __main__ as tools

if __name__ == "__main__":
    sys.exit(tools.main(["quantize", *sys.argv[1:]]))
