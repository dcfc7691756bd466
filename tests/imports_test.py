"""Who may import whom: the layers of docs/design/0001-architecture.md.

Every import counts, also one inside a function, except that optional packages
are allowed there and only there.
"""

import ast
import pathlib
from collections.abc import Iterator

import pytest

PACKAGE = pathlib.Path(__file__).resolve().parent.parent / "vrex_jax"

FOUNDATION = {"typing", "errors", "bitmap", "order"}
POLICY_SIDE = {
  *FOUNDATION,
  "policy",
  "models.cache",
  "models.config",
  "models.rotary",
}
# Part of the package -> what it may know of the rest, besides itself. A part
# that is not listed joins others and may know all but those on top of it.
KNOWS = {
  "typing": set(),
  "errors": set(),
  "bitmap": {"typing", "errors"},
  "order": {"typing"},
  "models": {*FOUNDATION, "resize"},
  "resize": FOUNDATION,
  "sampling": FOUNDATION,
  "video": {*FOUNDATION, "resize", "sampling", "video_file"},
  "video_file": FOUNDATION,
  "counts": {"typing"},
  "trace": {"typing", "errors", "counts"},
  "policy": {*FOUNDATION, "trace", "models.cache", "models.config"},
  "policy_syntax": {*FOUNDATION, "policy"},
  "attend": {*FOUNDATION, "policy", "trace", "models"},
  "resv": POLICY_SIDE,
  "baselines": {*POLICY_SIDE, "resv.hashing"},
  "placement": {*FOUNDATION, "models.cache", "trace"},
  "training": {*FOUNDATION, "models", "plotting", "tasks"},
  "hwmodel": {*FOUNDATION, "trace", "models.config", "plotting"},
}
ON_TOP = {"codesign", "report"}
FORBIDDEN = {"torch", "torchvision", "transformers"}
OPTIONAL = {
  "PIL",
  "av",
  "cmaes",
  "matplotlib",
  "optuna",
  "safetensors",
  "tokenizers",
}


def within(module: str, part: str) -> bool:
  return module == part or module.startswith(part + ".")


def imported_names(node: ast.AST, module: str, package: bool) -> list[str]:
  """Absolute dotted names that one statement or call imports."""
  if isinstance(node, ast.Import):
    return [alias.name for alias in node.names]
  if isinstance(node, ast.ImportFrom):
    base = node.module or ""
    if node.level:
      parts = ["vrex_jax", *module.split(".")] if module else ["vrex_jax"]
      parts = parts[: len(parts) - node.level + int(package)]
      base = ".".join([*parts, base] if base else parts)
    return [f"{base}.{alias.name}" for alias in node.names]
  if isinstance(node, ast.Call) and node.args:
    name = getattr(node.func, "attr", getattr(node.func, "id", ""))
    argument = node.args[0]
    if name in ("import_module", "__import__") and isinstance(
      argument, ast.Constant
    ):
      return [str(argument.value)]
  return []


def walk(
  node: ast.AST, at_import: bool = True
) -> Iterator[tuple[ast.AST, bool]]:
  """All nodes below `node`, and whether each runs when the module is loaded."""
  for child in ast.iter_child_nodes(node):
    is_function = isinstance(
      child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
    )
    yield child, at_import
    yield from walk(child, at_import and not is_function)


def complaint(module: str, name: str, at_import: bool) -> str | None:
  """What is wrong with `module` (without vrex_jax.) importing `name`."""
  root = name.split(".")[0]
  if root in FORBIDDEN:
    return f"{name} is never imported by the package"
  if root in OPTIONAL and at_import:
    return f"{name} is optional: import it inside the function that needs it"
  if root != "vrex_jax":
    return None
  target = name.removeprefix("vrex_jax").removeprefix(".")
  if any(within(target, top) for top in ON_TOP) and not any(
    within(module, top) for top in ON_TOP
  ):
    return f"{target} is on top: nothing below may know it"
  part = module.split(".")[0]
  if part not in KNOWS:
    return None
  if any(within(target, known) for known in {*KNOWS[part], part}):
    return None
  return f"{part} may not know {target or 'the whole package'}"


def complaints(module: str, source: str, package: bool = False) -> list[str]:
  """All breaches of the rules in one module's source."""
  return [
    text
    for node, at_import in walk(ast.parse(source))
    for name in imported_names(node, module, package)
    if (text := complaint(module, name, at_import)) is not None
  ]


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize(
  "path", FILES, ids=[str(path.relative_to(PACKAGE)) for path in FILES]
)
def test_every_module_keeps_to_its_layer(path):
  relative = path.relative_to(PACKAGE).with_suffix("")
  is_package = relative.name == "__init__"
  parts = relative.parts[:-1] if is_package else relative.parts
  assert complaints(".".join(parts), path.read_text(), is_package) == []


@pytest.mark.parametrize(
  ("module", "source"),
  [
    ("models.cache", "from vrex_jax import policy"),
    ("models.cache", "from vrex_jax.policy import KVPolicy"),
    ("models.cache", "from .. import policy"),
    ("models.cache", "from ..policy import KVPolicy"),
    ("models.cache", "import vrex_jax"),
    ("baselines.full", "from vrex_jax.models import decoder"),
    ("baselines.full", "import vrex_jax.stream as stream"),
    ("baselines.full", "def late():\n  from vrex_jax import stream"),
    ("resv.resv", "from vrex_jax.baselines import full"),
    ("trace", "from vrex_jax import policy"),
    ("hwmodel.energy", "from vrex_jax.models import cache"),
    ("hwmodel.energy", "from vrex_jax import resv"),
    ("stream", "from vrex_jax import report"),
    ("stream", "import torch.nn"),
    ("stream", "def late():\n  import torch"),
    ("stream", "import importlib\nimportlib.import_module('transformers')"),
    ("video", "import av"),
    ("video", "try:\n  import av\nexcept ImportError:\n  av = None"),
    ("video", "class Reader:\n  import av"),
    ("models.checkpoint", "from safetensors import numpy"),
  ],
)
def test_a_breach_is_seen(module, source):
  """Exactly one complaint each, so no rule hides behind another."""
  assert len(complaints(module, source)) == 1


@pytest.mark.parametrize(
  ("module", "source"),
  [
    ("models.attention", "from vrex_jax import bitmap"),
    ("models.attention", "from . import rotary"),
    ("baselines.full", "from vrex_jax.models import cache, rotary"),
    ("baselines.full", "from vrex_jax.baselines import budget"),
    ("stream", "from vrex_jax import models, policy"),
    ("hwmodel.energy", "from vrex_jax.models import config as config_lib"),
    ("report", "from vrex_jax import codesign"),
    ("video", "def frames(path):\n  import av\n  return av.open(path)"),
    ("video", "import avro_tools"),
  ],
)
def test_what_is_allowed_passes(module, source):
  assert complaints(module, source) == []


def test_relative_import_in_a_package_file_starts_there():
  assert complaints("models", "from . import cache", package=True) == []
  assert len(complaints("models", "from .. import stream", package=True)) == 1
