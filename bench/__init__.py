"""Figures as ratios within one run: `make bench`. Absolute rates of a shared machine mean little."""
