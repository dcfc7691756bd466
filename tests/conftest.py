"""What every test runs under: strict ranks, fixed examples, no GPU needed."""

import importlib.metadata
import os
import pathlib
import signal
from collections.abc import Callable, Iterator

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "Agg")
# The older of XLA's two ways to make a kernel of a fusion, and one piece of
# machine code a program: less than half the time to compile. XLA stops at a
# flag it does not know, so that other versions do without.
if importlib.metadata.version("jaxlib").startswith("0.10."):
  os.environ["XLA_FLAGS"] = " ".join(
    [
      "--xla_cpu_use_fusion_emitters=false",
      "--xla_cpu_parallel_codegen_split_count=1",
      os.environ.get("XLA_FLAGS", ""),
    ]
  ).strip()

import hypothesis
import jax
import pytest

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent

jax.config.update("jax_numpy_rank_promotion", "raise")
# Half the time to compile, and slower to run: tests are of what is computed.
# Passes that shape memory and loops still run; only the optimisation of machine
# code is left out, which neither adds nor removes copies or buffers.
jax.config.update("jax_disable_most_optimizations", True)
jax.config.update(
  "jax_compilation_cache_dir", os.environ.get("VREX_TEST_COMPILATION_CACHE")
)

hypothesis.settings.register_profile(
  "vrex_jax",
  derandomize=True,
  deadline=None,
  max_examples=50,
  suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("vrex_jax")


@pytest.fixture(scope="session", autouse=True)
def ctrl_c_interrupts() -> None:
  """A shell starts what runs in its background with Ctrl-C ignored."""
  signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="module")
def fused_as_for_users() -> Iterator[None]:
  """What `lower(…).compile()` returns has the fusions of a user's program.

  For tests of the compiled program itself: its instructions, its buffers.
  """
  if "--xla_cpu_use_fusion_emitters=false" not in os.environ.get(
    "XLA_FLAGS", ""
  ):
    yield
    return
  compile_ = jax.stages.Lowered.compile
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(
      jax.stages.Lowered,
      "compile",
      lambda lowered: compile_(lowered, {"xla_cpu_use_fusion_emitters": True}),
    )
    yield


@pytest.fixture(scope="session")
def repository() -> pathlib.Path:
  """Root of the checkout: the folder that holds pyproject.toml."""
  return REPOSITORY


@pytest.fixture(scope="session")
def shared_video() -> Callable[[str], pathlib.Path]:
  """A function from a clip's file name to its path; skips where it is absent.

  The clips lie beside the checkout, in ../shared/video, or where the
  environment variable VREX_SHARED_VIDEO says. No network, no download.
  """
  folder = pathlib.Path(
    os.environ.get("VREX_SHARED_VIDEO", REPOSITORY.parent / "shared" / "video")
  )

  def find(name: str) -> pathlib.Path:
    path = folder / name
    if not path.is_file():
      pytest.skip(f"no clip {path}: set VREX_SHARED_VIDEO to its folder")
    return path

  return find
