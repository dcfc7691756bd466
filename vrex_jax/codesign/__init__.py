"""Thresholds of the algorithm and sizes of the hardware in one objective."""
