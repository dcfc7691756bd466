"""Results of a study's steps, kept step by step in one JSON file."""

import json
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from vrex_jax.errors import InputError

__all__ = ["Ledger"]


class Ledger:
  """Dynamic. What has been done is not done again.

  Args:
    path: of the file; None to keep nothing.
    config: settings that a study which goes on must share.
    resume: take over what the file has.

  Raises:
    InputError: the file is of another study, or damaged.
  """

  def __init__(
    self,
    path: pathlib.Path | None,
    config: Mapping[str, Any],
    *,
    resume: bool,
  ):
    self.path = path
    self.config = json.loads(json.dumps(dict(config), default=str))
    self.steps: dict[str, Any] = {}
    if path is None or not resume or not path.exists():
      return
    try:
      kept = json.loads(path.read_text(encoding="utf-8"))
      config, steps = dict(kept["config"]), dict(kept["steps"])
    except (OSError, ValueError, KeyError, TypeError) as error:
      raise InputError(
        f"--resume is given and {path} cannot be read ({error}); it must be"
        " what a study left: remove it, or name another --out"
      ) from None
    for name in sorted({*config, *self.config}):
      if config.get(name) != self.config.get(name):
        raise InputError(
          f"--resume is given and the study in {path.parent} had --{name}"
          f" {config.get(name)}, this one {self.config.get(name)}; only the"
          " same study goes on: name another --out"
        )
    self.steps = steps

  def step(self, name: str, make: Callable[[], Any]) -> Any:
    """The result of a step, made now or before.

    Args:
      name: of the step.
      make: its result, of what JSON knows.

    Example:
      >>> ledger = Ledger(None, {}, resume=False)
      >>> ledger.step("a", lambda: [1]), ledger.step("a", lambda: [2])
      ([1], [1])
    """
    if name not in self.steps:
      self.steps[name] = make()
      self._write()
    return self.steps[name]

  def put(self, name: str, value: Any) -> None:
    """Keeps what a step that is still under way has come to."""
    self.steps[name] = value
    self._write()

  def _write(self) -> None:
    if self.path is None:
      return
    self.path.parent.mkdir(parents=True, exist_ok=True)
    hidden = self.path.with_name(f".{self.path.name}")
    text = json.dumps({"config": self.config, "steps": self.steps})
    hidden.write_text(text, encoding="utf-8")
    os.replace(hidden, self.path)
