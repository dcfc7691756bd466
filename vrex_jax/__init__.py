"""Streaming video LLMs with dynamic KV-cache retrieval, as pure functions."""

__version__ = "0.1.0"

__all__ = ["__version__"]
