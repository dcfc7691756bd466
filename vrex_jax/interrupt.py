"""Ctrl-C that lets the block under way finish, so that results can be kept."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator

__all__ = ["StoppedError", "graceful"]


class StoppedError(Exception):
  """The user wants to end, and nothing has been done yet that could be kept."""


@contextlib.contextmanager
def graceful(answer: str = "") -> Iterator[Callable[[], bool]]:
  """Inside, the first Ctrl-C is remembered; the second interrupts as usual.

  A step donates its state, so a step cut off in the middle leaves nothing to
  report. Outside the main thread signals are left alone.

  Args:
    answer: written to standard error at the first Ctrl-C, where what is under
      way may take a while.

  Yields:
    A function: has Ctrl-C been pressed?

  Example:
    >>> with graceful() as stopped:
    ...   stopped()
    False
  """
  pressed = threading.Event()
  if threading.current_thread() is not threading.main_thread():
    yield pressed.is_set
    return
  previous = signal.getsignal(signal.SIGINT)

  def remember(number, frame):
    del number, frame
    pressed.set()
    signal.signal(signal.SIGINT, previous)
    if answer:  # not by print, which may be under way
      os.write(sys.stderr.fileno(), f"\n{answer}\n".encode())

  signal.signal(signal.SIGINT, remember)
  try:
    yield pressed.is_set
  finally:
    signal.signal(signal.SIGINT, previous)
