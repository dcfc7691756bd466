"""experiments/stream_video.py as a user runs it, in a folder with a film."""

import numpy as np

from tests import scripts
from vrex_jax.tasks import render

__all__ = [
  "FILM",
  "FRAMES",
  "SCRIPT",
  "WINDOW",
  "WINDOW_SLUG",
  "environment",
  "run",
  "write_film",
]

SCRIPT = "experiments/stream_video.py"
FRAMES = 12
FILM = "--video=film.mp4"
WINDOW = "sliding_window(frames=2)"
WINDOW_SLUG = "2_sliding_window_frames_2_keep_prompt_true"
_MODULES = (
  "absl.app",
  "av",
  "tqdm",
  "vrex_jax.baselines.full",
  "vrex_jax.baselines.sliding_window",
  "vrex_jax.command",
  "vrex_jax.hardware_session",
  "vrex_jax.session",
)


def write_film(folder):
  """Writes the film that `FILM` names: noise, at 2 frames a second."""
  random = np.random.default_rng(0)
  pictures = random.integers(0, 255, (FRAMES, 32, 48, 3), np.uint8)
  render.write_mp4(folder / "film.mp4", pictures, fps=2)


def environment(cache):
  """Programs compiled quickly, and once for all runs that share a cache."""
  return scripts.environment(
    JAX_COMPILATION_CACHE_DIR=str(cache),
    JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0",
  )


def run(repository, folder, env, *cases):
  """Runs the script once for each list of arguments, in the folder.

  Without modelled platforms, unless a case names some.
  """
  cases = [
    case
    if any(one.startswith("--hardware") for one in case)
    else ["--hardware=none", *case]
    for case in cases
  ]
  return scripts.run_each(
    repository / SCRIPT,
    list(map(scripts.random_weights, cases)),
    folder=folder,
    modules=_MODULES,
    env=env,
  )
