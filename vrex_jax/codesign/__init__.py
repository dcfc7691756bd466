"""Thresholds of the retrieval and sizes of the chip in one objective.

See docs/codesign.md.
"""
