"""What counts cost: seconds, joules, square metres and watts of a platform.

Pure functions of float pytrees, so that every result has a derivative by every
hardware parameter and lifts with `jax.vmap`. See docs/hardware_model.md.
"""
