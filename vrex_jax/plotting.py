"""matplotlib, which is optional, for scripts that draw.

Figures are made without pyplot: no window, no global state.
"""

from typing import Any

from vrex_jax.errors import InputError

__all__ = ["check_installed", "figure", "legend_below"]


_ENTRY_INCHES = 1.6
"""Room for one entry of a legend."""


def check_installed() -> None:
  """Refuses to begin work whose plot could not be drawn.

  Raises:
    InputError: matplotlib is missing.
  """
  _figure_type()


def figure(**options: Any) -> Any:
  """An empty matplotlib figure.

  Args:
    options: of its constructor.

  Raises:
    InputError: matplotlib is missing.
  """
  return _figure_type()(**options)


def legend_below(figure: Any, axis: Any) -> None:
  """One legend for a whole figure, below it, in as many lines as it needs.

  Args:
    figure: of `figure`.
    axis: one of its axes, whose labels are those of all.
  """
  handles, labels = axis.get_legend_handles_labels()
  fitting = max(1, int(figure.get_figwidth() // _ENTRY_INCHES))
  figure.legend(
    handles,
    labels,
    loc="outside lower center",
    ncols=min(len(labels), fitting),
    fontsize=8,
    frameon=False,
  )


def _figure_type() -> Any:
  try:
    from matplotlib import figure as figure_lib
  except ImportError as error:
    raise InputError(
      f"the plot needs matplotlib ({error}): pip install -e '.[plot]', or"
      " leave --out out"
    ) from None
  return figure_lib.Figure
