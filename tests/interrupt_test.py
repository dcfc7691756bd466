"""Ctrl-C: remembered once, effective twice, and the handler given back."""

import signal
import threading

import pytest

from vrex_jax import interrupt


@pytest.fixture(autouse=True)
def restored():
  """The process's own handler, whatever a test does."""
  before = signal.getsignal(signal.SIGINT)
  yield
  signal.signal(signal.SIGINT, before)


def press():
  signal.raise_signal(signal.SIGINT)


def test_without_ctrl_c_nothing_is_remembered_or_changed():
  before = signal.getsignal(signal.SIGINT)
  with interrupt.graceful() as stopped:
    assert signal.getsignal(signal.SIGINT) is not before
    assert not stopped()
  assert not stopped()
  assert signal.getsignal(signal.SIGINT) is before


def test_the_first_is_remembered_and_the_second_interrupts():
  before = signal.getsignal(signal.SIGINT)
  with interrupt.graceful() as stopped:
    press()
    assert stopped()
    with pytest.raises(KeyboardInterrupt):
      press()
  assert stopped()
  assert signal.getsignal(signal.SIGINT) is before


def test_the_first_is_answered_once(capfd):
  with interrupt.graceful("the row is finished first") as stopped:
    press()
    with pytest.raises(KeyboardInterrupt):
      press()
    assert stopped()
  assert capfd.readouterr().err == "\nthe row is finished first\n"


def test_after_it_ctrl_c_interrupts_as_usual():
  with interrupt.graceful() as stopped:
    press()
  with pytest.raises(KeyboardInterrupt):
    press()
  assert stopped()


def test_an_error_inside_gives_the_handler_back():
  before = signal.getsignal(signal.SIGINT)
  with pytest.raises(RuntimeError), interrupt.graceful():
    raise RuntimeError
  assert signal.getsignal(signal.SIGINT) is before


def test_another_handler_comes_back():
  calls = []
  signal.signal(signal.SIGINT, lambda number, frame: calls.append(number))
  with interrupt.graceful() as stopped:
    press()
    assert (stopped(), calls) == (True, [])
    press()
  assert calls == [signal.SIGINT]


def test_outside_the_main_thread_signals_are_left_alone():
  before = signal.getsignal(signal.SIGINT)
  seen = []

  def work():
    with interrupt.graceful() as stopped:
      seen.append((stopped(), signal.getsignal(signal.SIGINT)))

  thread = threading.Thread(target=work)
  thread.start()
  thread.join()
  assert seen == [(False, before)]
