"""Platform files: what ships, what is refused, what survives a round trip."""

import jax
import pytest

from vrex_jax.errors import InputError
from vrex_jax.hwmodel import params
from vrex_jax.hwmodel import platforms

GOOD = '{ value = 273, unit = "GB/s", status = "datasheet", source = "a page" }'


def chip(body, name='name = "mine"', base='base = "vrex8"'):
  return f"{name}\n{base}\n{body}\n"


def dram(number):
  return chip(f"[dram]\nbandwidth_bytes_per_s = {number}")


MISTAKES = {
  "unknown part": (chip("[drams]\n"), "unknown key 'drams'"),
  "unknown key": (chip(f"[dram]\nspeed = {GOOD}"), "unknown key dram.speed"),
  "a bare number": (dram("273"), "a number is written"),
  "missing unit": (
    dram('{ value = 1, status = "assumed", source = "x" }'),
    "dram.bandwidth_bytes_per_s has no unit",
  ),
  "missing source": (
    dram('{ value = 1, unit = "GB/s", status = "assumed" }'),
    "has no source",
  ),
  "empty source": (
    dram('{ value = 1, unit = "GB/s", status = "assumed", source = "" }'),
    "has no source",
  ),
  "missing status": (
    dram('{ value = 1, unit = "GB/s", source = "x" }'),
    "has no status",
  ),
  "unknown status": (
    dram('{ value = 1, unit = "GB/s", status = "sure", source = "x" }'),
    "status 'sure'",
  ),
  "negative rate": (dram(GOOD.replace("273", "-273")), "is -273; it must be"),
  "a rate of zero": (dram(GOOD.replace("273", "0")), "must be above 0"),
  "not a number": (dram(GOOD.replace("273", '"fast"')), "finite number"),
  "infinite": (dram(GOOD.replace("273", "inf")), "finite number"),
  "wrong unit": (dram(GOOD.replace("GB/s", "GB")), "must be one of B/s"),
  "extra key of a number": (
    dram(GOOD.replace("value", "note = 1, value")),
    "a number is written",
  ),
  "a share above one": (
    chip(
      '[dram]\nefficiency = { value = 1.2, unit = "1", status = "assumed",'
      ' source = "x" }'
    ),
    "at most 1",
  ),
  "a unit that is no text": (
    dram(GOOD.replace('"GB/s"', '["GB/s"]')),
    "the unit ['GB/s']; it must be text",
  ),
  "a status that is no text": (
    dram(GOOD.replace('"datasheet"', "1")),
    "the status 1; it must be text",
  ),
  "a number that float32 takes for zero": (
    dram(GOOD.replace("273", "1e-60")),
    "must be from 1e-20 to 1e+20",
  ),
  "no name": (chip("", name=""), "name is None"),
  "unknown base": (chip("", base='base = "h100"'), "base is 'h100'"),
  "no base and a number missing": (
    chip(f"[dram]\nbandwidth_bytes_per_s = {GOOD}", base=""),
    "is missing; a platform without a base",
  ),
  "a part that is no table": (chip("", base="dram = 3"), "must be a table"),
  "no TOML": ("name = ", "is not TOML"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_sentence_that_names_it(tmp_path, mistake):
  text, said = MISTAKES[mistake]
  path = tmp_path / "chip.toml"
  path.write_text(text)
  with pytest.raises(InputError) as error:
    platforms.read(path)
  message = str(error.value)
  assert said in message
  assert "\n" not in message
  assert "chip.toml" in message


def test_a_missing_file_and_an_unknown_name(tmp_path):
  with pytest.raises(InputError, match="cannot be read"):
    platforms.read(tmp_path / "none.toml")
  with pytest.raises(InputError, match="unknown platform 'h100'"):
    platforms.named("h100")


@pytest.mark.parametrize("name", platforms.PLATFORMS)
def test_every_number_that_ships_has_a_source(name):
  found = platforms.named(name)
  numbers = [n for part in found.numbers.values() for n in part.values()]
  assert len(numbers) == len(jax.tree.leaves(found.platform)) > 20
  assert all(number.source for number in numbers)
  assert {number.status for number in numbers} <= set(params.STATUSES)
  assert all(leaf >= 0 for leaf in jax.tree.leaves(found.platform))


@pytest.mark.parametrize("name", platforms.PLATFORMS)
def test_what_is_written_reads_back(tmp_path, name):
  found = platforms.named(name)
  platforms.write(found, tmp_path / "again.toml")
  again = platforms.named(str(tmp_path / "again.toml"))
  assert again == found._replace(base="")


def test_a_base_gives_what_a_file_leaves_out(tmp_path):
  path = tmp_path / "chip.toml"
  path.write_text(dram(GOOD))
  mine, base = platforms.read(path).platform, platforms.named("vrex8").platform
  assert mine.dram.bandwidth_bytes_per_s == 273e9
  changed = mine.replace(name="vrex8", dram=base.dram)
  assert changed == base


def test_a_file_knows_its_base():
  """What ships is its own; its memory devices are a file's (--memory)."""
  assert platforms.named("vrex48").base == "vrex48"
  assert (
    platforms.describe({"name": "a", "base": "vrex48"}, "a").base == "vrex48"
  )


def test_a_base_may_have_a_base():
  vrex8, vrex48 = (platforms.named(n).platform for n in ("vrex8", "vrex48"))
  assert vrex48.units == vrex8.units
  assert vrex48.compute == vrex8.compute.replace(cores=48.0)


def test_peaks_are_the_printed_ones():
  """V-Rex Table I: 53.3, 319.5, 54 and 312 TFLOPS."""
  peaks = {"vrex8": 53.3, "vrex48": 319.5, "agx_orin": 54.0, "a100": 312.0}
  for name, teraflops in peaks.items():
    peak = platforms.named(name).platform.compute.peak_flops_per_s
    assert peak == pytest.approx(1e12 * teraflops, rel=1e-3)
