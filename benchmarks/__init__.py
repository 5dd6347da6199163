"""One script per question. `python dev.py bench` runs all; `python dev.py bench forward` one of them."""
