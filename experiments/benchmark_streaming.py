r"""How long a decoder step of one frame takes, beside torch and transformers.

  python experiments/benchmark_streaming.py --shape qwen2_512 --policy full \
      --cache_tokens 1024,8192,32768 --frame_tokens 16,196 \
      --against hf,torch_sdpa --threads 1 --out runs/benchmark

Times the step of a live stream (no head) over a cache that holds random keys
and values, under every policy, cache length and frame length asked for; `full`
is always among them. All sides have the same weights and the same past, and
must agree before a clock is started. One process, one core, runs interleaved,
minimum of the rounds; compare CPU times. How and why:
docs/design/0003-measuring.md.

  --against hf           transformers' model class, DynamicCache, sdpa
  --against torch_sdpa   written by hand: cache in place, query heads folded
                         into rows, the fastest of three attention forms
  --forced_ratio 0.05    attend to exactly this share of the past, with all the
                         policy's own work of choosing still done
  --video FILE           fill the cache from a clip instead, through the vision
                         tower; --loop to reach the length

Hardware: a CPU (any JAX device without --against). Minutes: 5 for the command
above on two cores, of which one is used. Expect: transformers / ours about 6 at
32K cached and 16 new tokens, 1.5 to 2 at 8K and 196.
"""

import dataclasses
import itertools
import pathlib
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch_decoder_step
import tqdm
from absl import flags

from vrex_jax import command
from vrex_jax import model_source
from vrex_jax import plotting
from vrex_jax import policy as policy_lib
from vrex_jax import policy_syntax
from vrex_jax import record
from vrex_jax.benchmark import cell
from vrex_jax.benchmark import clip
from vrex_jax.benchmark import forced_ratio
from vrex_jax.benchmark import plans
from vrex_jax.benchmark import plot
from vrex_jax.benchmark import rows as rows_lib
from vrex_jax.benchmark import step as step_lib
from vrex_jax.benchmark import timing
from vrex_jax.errors import InputError
from vrex_jax.models import cache as cache_lib
from vrex_jax.models import config as config_lib
from vrex_jax.models import dense
from vrex_jax.models import video_llm
from vrex_jax.typing import Frame, Parameters

_SHAPE = flags.DEFINE_string(
  "shape", "wide", f"Decoder: {', '.join(plans.SHAPES)}."
)
_POLICY = flags.DEFINE_string(
  "policy", "full", 'KV-cache policies, e.g. "full | resv"; full always runs.'
)
_CACHE_TOKENS = flags.DEFINE_list(
  "cache_tokens", ["8192"], "Past tokens of every stream."
)
_FRAME_TOKENS = flags.DEFINE_list(
  "frame_tokens", ["10"], "New tokens of a step."
)
_AGAINST = flags.DEFINE_list("against", [], "Other sides: hf, torch_sdpa.")
_FORCED_RATIO = flags.DEFINE_list(
  "forced_ratio", [], "Shares of the past that all policies but full attend to."
)
_BATCH = flags.DEFINE_integer("batch", 1, "Streams.", lower_bound=1)
_LOOKAHEAD = flags.DEFINE_integer(
  "lookahead",
  0,
  "1: select for a layer while the one before it runs.",
  lower_bound=0,
  upper_bound=1,
)
_WITH_VISION = flags.DEFINE_bool(
  "with_vision", False, "Start from pixels: vision tower and connector too."
)
_VIDEO = flags.DEFINE_string("video", None, "Fill the cache from this clip.")
_FPS = flags.DEFINE_float("fps", 2.0, "Frames sampled per second of video.")
_LOOP = flags.DEFINE_bool("loop", False, "Play the clip again and again.")
_THREADS = flags.DEFINE_integer("threads", 1, "Cores to use.", lower_bound=1)
_ROUNDS = flags.DEFINE_integer("rounds", 10, "Timed rounds.", lower_bound=1)
_DTYPE = flags.DEFINE_enum(
  "dtype", "float32", ["float32", "bfloat16"], "Storage of weights and cache."
)
_SEED = flags.DEFINE_integer(
  "seed",
  0,
  "Of weights, cache and frame.",
  lower_bound=0,
  upper_bound=command.MAX_SEED,
)
_OUT = flags.DEFINE_string(
  "out", None, "Folder for config.toml, metrics.json and plot.png."
)
_FILES = ("config.toml", "metrics.json", "plot.png")
_SMOKE = flags.DEFINE_bool(
  "smoke", False, "Seconds only: a tiny shape, short caches, two rounds."
)


def _settings() -> dict[str, Any]:
  """Every flag of this script as it is used, defaults included."""
  settings = command.settings()
  if _SMOKE.value:
    settings |= {
      "shape": "smoke",
      "cache_tokens": ["100"],
      "frame_tokens": ["4", "40"],
      "rounds": 2,
    }
  for name, kind in (
    ("cache_tokens", int),
    ("frame_tokens", int),
    ("forced_ratio", float),
  ):
    settings[name] = [_number(name, text, kind) for text in settings[name]]
  for name in ("cache_tokens", "frame_tokens"):
    if not settings[name]:
      raise InputError(
        f"--{name} is empty; it must be a list of numbers above 0, separated by"
        f" commas: try --{name}=16"
      )
  return settings


def _number(name: str, text: str, kind: Callable[[str], Any]) -> Any:
  try:
    value = kind(text)
    if value > 0:
      return value
  except ValueError:
    pass
  raise InputError(
    f"--{name} has {text!r}; it must be a list of numbers above 0, separated by"
    " commas: see --help"
  )


def _check(settings: dict[str, Any]) -> list[policy_lib.KVPolicy]:
  """Every mistake that can be seen before the work; the policies."""
  if settings["against"] and (_WITH_VISION.value or _VIDEO.value):
    raise InputError(
      "--against compares decoder steps over random caches; leave out"
      " --with_vision and --video, or --against"
    )
  torch_decoder_step.check_installed(settings["against"])
  if _OUT.value is not None:
    record.check_folder(pathlib.Path(_OUT.value), names=_FILES)
    plotting.check_installed()
  for plan in _plans(settings):
    tokens = _model_config(plan).tokens_per_frame
    if _VIDEO.value is not None and plan.cache_tokens < tokens:
      raise InputError(
        f"--cache_tokens has {plan.cache_tokens}, less than the {tokens} tokens"
        " of one frame, and --video fills the cache with whole frames: raise it"
        f" to {tokens}"
      )
  policies = policy_syntax.parse_policies(_POLICY.value)
  others = [policy for policy in policies if policy.name != "full"]
  if settings["forced_ratio"] and not others:
    raise InputError(
      "--forced_ratio is given and --policy names only full, which is never"
      ' forced; name another too: --policy "full | resv"'
    )
  for policy, ratio in itertools.product(others, settings["forced_ratio"]):
    forced_ratio.check(policy, ratio)
  return [policy_syntax.make_policy("full"), *others]


def _plans(settings: dict[str, Any]) -> list[plans.Plan]:
  """All cells, those of one frame length together."""
  return [
    plans.Plan(
      shape=settings["shape"],
      cache_tokens=cache_tokens,
      frame_tokens=frame_tokens,
      batch=_BATCH.value,
      lookahead=_LOOKAHEAD.value,
      dtype=_DTYPE.value,
      with_vision=_WITH_VISION.value,
      seed=_SEED.value,
    )
    for frame_tokens, cache_tokens in itertools.product(
      settings["frame_tokens"], settings["cache_tokens"]
    )
  ]


def _model_config(plan: plans.Plan) -> config_lib.ModelConfig:
  with_vision = plan.with_vision or _VIDEO.value is not None
  return plans.model_config(
    plan.shape, plan.frame_tokens, with_vision=with_vision
  )


def _model(plan: plans.Plan) -> tuple[config_lib.ModelConfig, Parameters]:
  """The model of a frame length and its random weights."""
  model = _model_config(plan)
  kind = model_source.storage_dtype(plan.dtype)
  shapes = video_llm.parameter_shapes(model, kind)
  model_source.check_memory(
    sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes)),
    f"shape {plan.shape} with {plan.dtype} weights",
    "use --dtype=bfloat16 or a smaller --shape",
  )
  params = video_llm.random_parameters(
    model, jax.random.key(plan.seed), dtype=kind
  )
  rows = plan.batch * plan.frame_tokens
  return model, dense.store_for(params, rows, _THREADS.value)


def _check_room(
  plan: plans.Plan, decoder: config_lib.DecoderConfig, caches: int
) -> None:
  slot_bytes = cache_lib.kv_bytes_per_slot(
    decoder.num_layers,
    decoder.num_kv_heads,
    decoder.head_dim,
    model_source.storage_dtype(plan.dtype),
  )
  model_source.check_memory(
    caches * plan.batch * slot_bytes * (plan.cache_tokens + plan.frame_tokens),
    f"{caches} copies of a cache of {plan.cache_tokens} tokens",
    "lower --cache_tokens or --batch, or name fewer policies and sides",
  )


def _random_setting(
  plan: plans.Plan, model: config_lib.ModelConfig, params: Parameters
) -> cell.Setting:
  config = plans.stream_config(plan, model.decoder)
  frame = step_lib.random_frame(
    config, model, with_vision=plan.with_vision, seed=plan.seed
  )
  return cell.Setting(
    plan, model, params, frame, cell.random_past(plan), _THREADS.value
  )


def _clip_setting(
  plan: plans.Plan,
  model: config_lib.ModelConfig,
  params: Parameters,
  pictures: Sequence[Frame],
) -> cell.Setting:
  """The clip up to the asked length, then its next frame is timed."""
  needed = plan.cache_tokens // plan.frame_tokens
  plan = dataclasses.replace(plan, cache_tokens=needed * plan.frame_tokens)
  dtype = model_source.activation_dtype(plan.dtype)
  tokens = clip.embed_pictures(model, params, pictures, dtype=dtype)
  following = needed % len(pictures)
  frame = pictures[following] if plan.with_vision else tokens[following]
  batched = jnp.broadcast_to(frame[None], (plan.batch, *frame.shape))
  past = clip.clip_past(plan, model, tokens, loop=_LOOP.value)
  return cell.Setting(plan, model, params, batched, past, _THREADS.value)


def _measure_all(
  settings: dict[str, Any], policies: Sequence[policy_lib.KVPolicy]
) -> list[cell.Measurement]:
  """Every cell, with a progress bar over rounds."""
  cells = _plans(settings)
  results = []
  with tqdm.tqdm(
    total=len(cells) * (settings["rounds"] + 1),
    unit="round",
    disable=not sys.stderr.isatty(),
  ) as bar:
    for frame_tokens in settings["frame_tokens"]:
      group = [plan for plan in cells if plan.frame_tokens == frame_tokens]
      model, params = _model(group[0])
      pictures = _pictures(model, max(plan.cache_tokens for plan in group))
      for plan in group:
        bar.set_description(f"{plan.cache_tokens} cached, T={frame_tokens}")
        _check_room(
          plan, model.decoder, len(policies) + 3 * len(settings["against"])
        )
        if pictures:
          setting = _clip_setting(plan, model, params, pictures)
        else:
          setting = _random_setting(plan, model, params)
        result = cell.measure(
          setting,
          policies,
          ratios=settings["forced_ratio"],
          contenders=_contenders(setting, settings["against"]),
          rounds=settings["rounds"],
          report=bar.update,
        )
        results.append(result)
        tqdm.tqdm.write(
          f"measured {plan.cache_tokens} cached, T = {frame_tokens}:"
          f" full {result.rows[0]['cpu_ms']:.1f} ms"
        )
  return results


def _pictures(model: config_lib.ModelConfig, tokens: int) -> list[Frame]:
  if _VIDEO.value is None:
    return []
  return clip.read_pictures(
    _VIDEO.value,
    model.image,
    fps=_FPS.value,
    most=tokens // model.tokens_per_frame + 1,
  )


def _contenders(setting: cell.Setting, sides: Sequence[str]):
  def make(keys: np.ndarray, values: np.ndarray) -> list[cell.Contender]:
    return [
      one
      for side in sides
      for one in torch_decoder_step.contenders(
        side,
        setting.model.decoder,
        dense.to_plain(setting.params)["decoder"],
        keys,
        values,
        np.asarray(setting.frame),
        dtype=setting.plan.dtype,
        threads=setting.threads,
      )
    ]

  return make


def _print(results: Sequence[cell.Measurement]) -> None:
  rows = [row for result in results for row in result.rows]
  print(rows_lib.table(rows))
  print("\nCPU time except for wall ms; ratios are of CPU times.")
  for result in results:
    for program in result.programs:
      print(
        f"{program['policy']}, {program['cache_tokens']} cached, T ="
        f" {program['frame_tokens']}: compiled in {program['compile_s']:.1f} s,"
        f" state {program['state_bytes'] / 1e6:.1f} MB, temporary"
        f" {program['temporary_bytes'] / 1e6:.1f} MB;"
        f" with an empty past {result.dense['cpu_ms']:.1f} ms"
      )


def _write(
  settings: dict[str, Any],
  results: Sequence[cell.Measurement],
  started: float,
) -> None:
  rows = [row for result in results for row in result.rows]
  out = pathlib.Path(_OUT.value)
  written = record.write_folder(
    out,
    config=settings,
    metrics_object=record.metrics(
      rows,
      config=settings,
      dtype=_DTYPE.value,
      seed=_SEED.value,
      started=started,
      dense=[result.dense for result in results],
      programs=[one for result in results for one in result.programs],
      forms=[result.forms for result in results],
      against_versions=torch_decoder_step.versions(settings["against"]),
    ),
    tables={},
    others={"plot.png": lambda path: plot.save_plot(rows, path)},
  )
  print(f"written to {out}: " + ", ".join(path.name for path in written))


def main(arguments: Sequence[str]) -> None:
  del arguments
  started = time.time()
  settings = _settings()
  policies = _check(settings)
  with timing.pinned(_THREADS.value):
    device = jax.devices()[0]
    print(f"device {device.platform} ({device.device_kind})")
    results = _measure_all(settings, policies)
    print()
    _print(results)
    if _OUT.value is not None:
      _write(settings, results, started)


if __name__ == "__main__":
  command.run(main)
