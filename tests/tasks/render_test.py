"""The rendered film: what its events say is what can be seen; mp4 writing."""

import dataclasses
import itertools
import re
import sys

import av
import numpy as np
import pytest

from tests import scripts
from vrex_jax import errors
from vrex_jax import video
from vrex_jax.tasks import drawing
from vrex_jax.tasks import render

SMALL = render.RenderConfig(seconds=24.0, fps=5.0, width=96, height=72)
SEEDS = range(8)


def film(config, seed):
  frames, events = render.render_scene(config, seed)
  return list(frames), events


def is_cut(event):
  return " room: " in event.text


def colours_seen(pixels):
  """Colours of which a fair part of a shape is in the picture."""
  seen = set()
  for name, colour in drawing.COLOURS.items():
    distance = np.abs(pixels.astype(int) - colour).max(axis=-1)
    if (distance < 24).sum() > 12:
      seen.add(name)
  return seen


def colours_named(text):
  names = "|".join(drawing.COLOURS)
  shapes = "|".join(drawing.SHAPES)
  return set(re.findall(f"({names}) (?:{shapes})", text))


def test_same_seed_same_film():
  first, events = film(SMALL, 3)
  again, same_events = film(SMALL, 3)
  np.testing.assert_array_equal(first, again)
  assert events == same_events
  other, other_events = film(SMALL, 4)
  assert other_events != events
  assert any((a != b).any() for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize(
  ("seconds", "fps", "count"), [(2.0, 10.0, 20), (0.01, 2.0, 1)]
)
def test_length_and_shape(seconds, fps, count):
  config = render.RenderConfig(seconds=seconds, fps=fps, width=64, height=48)
  frames, events = film(config, 0)
  assert len(frames) == config.num_frames == count
  for pixels in frames:
    assert pixels.shape == (48, 64, 3)
    assert pixels.dtype == np.uint8
  assert events[0].time_s == 0.0


def test_frames_are_drawn_only_when_asked_for():
  config = dataclasses.replace(SMALL, seconds=1e3)
  frames, events = render.render_scene(config, 0)
  assert len(list(itertools.islice(frames, 3))) == 3
  assert events[-1].time_s > 990


@pytest.mark.parametrize("seed", SEEDS)
def test_events_are_in_order_and_within_the_film(seed):
  _, events = render.render_scene(SMALL, seed)
  times = [event.time_s for event in events]
  assert times == sorted(times)
  assert times[0] == 0.0
  assert times[-1] < SMALL.seconds
  assert is_cut(events[0])


@pytest.mark.parametrize("seed", SEEDS)
def test_picture_jumps_at_the_cuts_and_nowhere_else(seed):
  frames, events = film(SMALL, seed)
  walls = [pixels[:6].astype(int).mean(axis=(0, 1)) for pixels in frames]
  jumps = [
    index
    for index, (before, after) in enumerate(itertools.pairwise(walls), start=1)
    if np.abs(after - before).max() > 8
  ]
  cuts = [round(e.time_s * SMALL.fps) for e in events if is_cut(e)]
  assert jumps == cuts[1:]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_colours_in_the_picture_are_those_the_events_tell_of(seed):
  """Follows the text through the film and compares while nothing moves."""
  config = render.RenderConfig(seconds=40.0, fps=5.0, width=192, height=144)
  frames, events = film(config, seed)
  compared = 0
  present: set[str] = set()
  for event, following in itertools.zip_longest(events, events[1:]):
    if is_cut(event):
      present = colours_named(event.text)
      settled_s = event.time_s
    else:
      settled_s = event.time_s + render.MOVE_S
      if "leaves" in event.text:
        present -= colours_named(event.text)
      else:
        present |= colours_named(event.text)
    end_s = following.time_s if following else config.seconds
    seen = [
      colours_seen(frames[index])
      for index in range(len(frames))
      if settled_s <= index / config.fps < end_s
    ]
    if seen:
      compared += 1
      assert set.union(*seen) == present, event
  assert compared > 10


def test_things_leave_and_come_back_and_rooms_are_revisited():
  told = " ".join(
    event.text
    for seed in SEEDS
    for event in render.render_scene(SMALL, seed)[1]
  )
  for phrase in ("back in the", "leaves to the", "comes in from", "comes back"):
    assert phrase in told


@pytest.mark.parametrize("seed", SEEDS)
def test_a_thing_that_left_is_gone_at_the_next_visit(seed):
  config = dataclasses.replace(SMALL, seconds=60.0)
  rooms: dict[str, set[str]] = {}
  room = ""
  for event in render.render_scene(config, seed)[1]:
    colours = colours_named(event.text)
    if is_cut(event):
      room = re.search(r"the (\w+) room", event.text)[1]
      assert ("back in" in event.text) == (room in rooms)
      assert rooms.get(room, colours) == colours
      rooms[room] = colours
    elif "leaves" in event.text:
      rooms[room] = rooms[room] - colours
    else:
      rooms[room] = rooms[room] | colours


@pytest.mark.parametrize("shape", drawing.SHAPES)
def test_a_shape_covers_its_centre_and_has_soft_edges(shape):
  black = np.zeros((64, 64, 3), np.float32)
  sprite = drawing.Sprite(shape, "white", 32.0, 32.0, 20.0, 60.0, 0.3)
  pixels = drawing.draw(black, [sprite])[..., 0]
  assert pixels[32, 32] > 200
  assert pixels[0, 0] == pixels[-1, -1] == 0
  edge = (pixels > 0) & (pixels < 150)
  assert 30 < edge.sum() < 400
  assert not black.any()


def test_a_shape_outside_the_picture_is_not_drawn():
  grey = np.full((32, 32, 3), 90, np.float32)
  for x, y in [(-50.0, 16.0), (90.0, 16.0), (16.0, -50.0), (16.0, 90.0)]:
    sprite = drawing.Sprite("circle", "red", x, y, 10.0, y, 0.0)
    assert (drawing.draw(grey, [sprite]) == 90).all()


@pytest.mark.parametrize(
  "changes",
  [{"seconds": 0.0}, {"fps": float("nan")}, {"width": 33}, {"height": 2}],
)
def test_impossible_films_are_refused(changes):
  name, value = next(iter(changes.items()))
  with pytest.raises(errors.InputError, match=f"{name} is {value}; it must"):
    render.RenderConfig(**changes)


# Writing.


def test_written_film_is_read_back(tmp_path):
  path = tmp_path / "new" / "folder" / "a.mp4"
  config = dataclasses.replace(SMALL, seconds=4.0)
  frames, _ = film(config, 0)
  render.write_mp4(path, frames, config.fps)
  assert [entry.name for entry in path.parent.iterdir()] == ["a.mp4"]
  assert video.probe(path) == (4.0, 5.0, 96, 72, 20)
  decoded = [frame.pixels for frame in video.read_frames(path, fps=5.0)]
  assert len(decoded) == len(frames)
  for before, after in zip(frames, decoded, strict=True):
    assert np.abs(before.astype(int) - after).mean() < 4.0


def test_writing_without_x264(tmp_path, monkeypatch):
  monkeypatch.setattr(av, "codecs_available", frozenset({"mpeg4"}))
  frames, _ = film(dataclasses.replace(SMALL, seconds=1.0), 0)
  render.write_mp4(tmp_path / "a.mp4", frames, 5)
  with av.open(str(tmp_path / "a.mp4")) as container:
    assert container.streams.video[0].codec_context.name == "mpeg4"
  decoded = [f.pixels for f in video.read_frames(tmp_path / "a.mp4", fps=5)]
  for before, after in zip(frames, decoded, strict=True):
    assert np.abs(before.astype(int) - after).mean() < 6.0


@pytest.mark.parametrize("fps", [0.5, 10, 29.97, 30000 / 1001])
def test_frame_rates(tmp_path, fps):
  frames = [np.zeros((32, 32, 3), np.uint8)] * 4
  render.write_mp4(tmp_path / "a.mp4", frames, fps)
  assert video.probe(tmp_path / "a.mp4").fps == pytest.approx(fps, rel=1e-4)


def test_an_older_file_is_kept_when_writing_fails(tmp_path):
  path = tmp_path / "a.mp4"
  path.write_text("older")

  def failing():
    yield from [np.zeros((32, 32, 3), np.uint8)] * 200
    raise RuntimeError("no more frames")

  with pytest.raises(RuntimeError, match="no more frames"):
    render.write_mp4(path, failing(), 10)
  assert path.read_text() == "older"
  assert list(tmp_path.iterdir()) == [path]
  render.write_mp4(path, [np.zeros((32, 32, 3), np.uint8)], 10)
  assert video.probe(path).frames == 1


@pytest.mark.parametrize(
  ("frames", "fps", "message"),
  [
    ([], 10, "there is no frame to write"),
    ([np.zeros((31, 32, 3), np.uint8)], 10, "32 x 31 pixels"),
    ([np.zeros((32, 32, 3), np.uint8)], 0, "fps is 0"),
    ([np.zeros((32, 32, 3), np.uint8)], float("inf"), "fps is inf"),
  ],
)
def test_what_cannot_be_encoded_leaves_nothing_behind(
  tmp_path, frames, fps, message
):
  with pytest.raises(errors.InputError, match=message):
    render.write_mp4(tmp_path / "a.mp4", frames, fps)
  assert list(tmp_path.iterdir()) == []


def test_frames_of_another_shape_or_dtype_are_refused(tmp_path):
  small = np.zeros((32, 32, 3), np.uint8)
  with pytest.raises(AssertionError, match="shape"):
    render.write_mp4(tmp_path / "a.mp4", [small, small[:16]], 10)
  with pytest.raises(AssertionError, match="type"):
    render.write_mp4(tmp_path / "a.mp4", [small.astype(np.float32)], 10)
  assert list(tmp_path.iterdir()) == []


def test_bad_paths_are_refused(tmp_path):
  frames = [np.zeros((32, 32, 3), np.uint8)]
  (tmp_path / "file").touch()
  with pytest.raises(errors.InputError, match="is a directory"):
    render.write_mp4(tmp_path, frames, 10)
  with pytest.raises(errors.InputError, match="cannot be written"):
    render.write_mp4(tmp_path / "file" / "a.mp4", frames, 10)
  with pytest.raises(errors.InputError, match="cannot be written"):
    render.write_mp4(tmp_path / ("a" * 300), frames, 10)
  assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_without_pyav_the_way_to_get_it_is_told(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, "av", None)
  with pytest.raises(errors.InputError, match=r"pip install -e '.\[video\]"):
    render.write_mp4(tmp_path / "a.mp4", [], 10)


# The command.


def command(*arguments):
  return scripts.run_python("-m", "vrex_jax.tasks.render", *arguments)


def test_command_writes_and_tells(tmp_path):
  path = tmp_path / "runs" / "a.mp4"
  done = command("--out", str(path), "--seconds", "2", "--fps", "5")
  assert done.returncode == 0, done.stderr
  assert f"{path}: 10 frames at 5 per second, 384 x 288" in done.stdout
  assert "0.0 s  the blue room: " in done.stdout
  assert video.probe(path).frames == 10


def test_command_refuses_in_one_sentence(tmp_path):
  done = command("--out", str(tmp_path / "a.mp4"), "--width", "9")
  assert done.returncode == 2
  assert done.stderr.startswith("width is 9; it must be even")
  assert done.stderr.count("\n") == 1
  assert list(tmp_path.iterdir()) == []
