import json
import pickle

import ml_dtypes
import numpy as np
import pytest
from safetensors import numpy as safetensors_numpy

from vrex_jax.errors import InputError
from vrex_jax.models import tensor_files


@pytest.fixture
def matrix():
  return np.random.default_rng(0).standard_normal((7, 5)).astype(np.float32)


def _save(path, **tensors):
  safetensors_numpy.save_file(tensors, path)
  return tensor_files.list_file(path)


@pytest.mark.parametrize(
  "kind", [np.float16, np.float32, np.float64, ml_dtypes.bfloat16]
)
def test_reading_is_casting(kind, matrix, tmp_path):
  entry = _save(tmp_path / "a.safetensors", w=matrix.astype(kind))["w"]
  found = np.zeros((7, 5), np.float32)
  tensor_files.read_into(entry, found)
  np.testing.assert_array_equal(found, matrix.astype(kind).astype(np.float32))
  assert tensor_files.unreadable({"w": entry}) == []


def test_slabs_fill_a_transposed_view(matrix, tmp_path, monkeypatch):
  """Slabs of two rows give what one read gives."""
  monkeypatch.setattr(tensor_files, "_SLAB_BYTES", 2 * 5 * 4)
  entry = _save(tmp_path / "a.safetensors", w=matrix)["w"]
  leaf = tensor_files.aligned_empty((5, 7), np.dtype(np.float32))
  tensor_files.read_into(entry, leaf.T)
  np.testing.assert_array_equal(leaf, matrix.T)


def test_part_of_the_rows_and_a_patch(matrix, tmp_path, monkeypatch):
  monkeypatch.setattr(tensor_files, "_SLAB_BYTES", 5 * 4)
  entry = _save(
    tmp_path / "a.safetensors", w=matrix.astype(ml_dtypes.bfloat16)
  )["w"]
  seen = []

  def patch(rows, which):
    assert rows.dtype == np.float32
    seen.extend(range(which.start, which.stop))
    return rows + 1

  found = np.zeros((3, 5), np.float32)
  tensor_files.read_into(entry, found, patch=patch, start=2)
  stored = matrix.astype(ml_dtypes.bfloat16).astype(np.float32)
  np.testing.assert_array_equal(found, stored[2:5] + 1)
  assert seen == [2, 3, 4]


def test_scalars_are_read(tmp_path):
  entry = _save(tmp_path / "a.safetensors", w=np.array(3, np.float32))["w"]
  found = np.zeros((), np.float32)
  tensor_files.read_into(entry, found)
  assert found == 3


def test_same_values_sees_one_changed_entry(matrix, tmp_path, monkeypatch):
  monkeypatch.setattr(tensor_files, "_SLAB_BYTES", 5 * 4)
  other = matrix.copy()
  other[6, 4] += 1
  entries = _save(
    tmp_path / "a.safetensors",
    w=matrix,
    v=matrix.copy(),
    u=other,
    t=matrix[:6].copy(),
  )
  assert tensor_files.same_values(entries["w"], entries["v"])
  assert not tensor_files.same_values(entries["w"], entries["u"])
  assert not tensor_files.same_values(entries["w"], entries["t"])


def test_integers_are_not_weights(tmp_path):
  entries = _save(tmp_path / "a.safetensors", w=np.ones(3, np.int8))
  assert tensor_files.unreadable(entries) == ["w (I8)"]


def test_shards_are_read_by_their_index(matrix, tmp_path):
  _write_shards(tmp_path, {"a": matrix, "b": 2 * matrix})
  entries = tensor_files.list_tensors(tmp_path)
  assert {name: entry.path.name for name, entry in entries.items()} == {
    "a": "model-0.safetensors",
    "b": "model-1.safetensors",
  }
  np.testing.assert_array_equal(
    tensor_files.read_tensor(entries["b"]), 2 * matrix
  )


def test_a_missing_shard_is_named(matrix, tmp_path):
  _write_shards(tmp_path, {"a": matrix, "b": matrix})
  (tmp_path / "model-1.safetensors").unlink()
  with pytest.raises(InputError, match=r"model-1\.safetensors"):
    tensor_files.list_tensors(tmp_path)


def test_a_tensor_the_shard_lacks_is_named(matrix, tmp_path):
  _write_shards(tmp_path, {"a": matrix, "b": matrix})
  _save(tmp_path / "model-1.safetensors", c=matrix)
  promise = r"promises b in model-1\.safetensors, which does not hold it"
  with pytest.raises(
    InputError, match=rf"{promise} \(no file does; 1 misplaced"
  ):
    tensor_files.list_tensors(tmp_path)


def test_a_tensor_in_another_shard_is_found_there(matrix, tmp_path):
  _write_shards(tmp_path, {"a": matrix, "b": matrix, "c": matrix})
  index = tmp_path / "model.safetensors.index.json"
  shards = [f"model-{number}.safetensors" for number in (1, 1, 0)]
  moved = dict(zip("abc", shards, strict=True))
  index.write_text(json.dumps({"weight_map": moved}))
  with pytest.raises(InputError) as told:
    tensor_files.list_tensors(tmp_path)
  message = str(told.value)
  assert "promises a in model-1.safetensors, which does not hold it" in message
  assert "(model-0.safetensors does; 2 misplaced in all)" in message


def test_an_index_without_a_map_is_refused(tmp_path):
  index = tmp_path / "model.safetensors.index.json"
  index.write_text('{"metadata": {}}')
  with pytest.raises(InputError, match="weight_map"):
    tensor_files.list_tensors(tmp_path)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth"])
def test_a_pickle_is_refused_and_not_opened(name, tmp_path):
  (tmp_path / name).write_bytes(pickle.dumps(_Bomb()))
  for read in (
    lambda: tensor_files.list_tensors(tmp_path),
    lambda: tensor_files.list_file(tmp_path / name),
  ):
    with pytest.raises(InputError, match=f"{name} is a pickle file") as caught:
      read()
    assert "save_pretrained" in str(caught.value)


class _Bomb:
  def __reduce__(self):
    return (pytest.fail, ("the pickle was opened",))


@pytest.mark.parametrize("keep", [3, 40, -4])
def test_a_truncated_file_is_refused(keep, matrix, tmp_path):
  path = tmp_path / "model.safetensors"
  _save(path, w=matrix)
  path.write_bytes(path.read_bytes()[:keep])
  with pytest.raises(InputError, match="not a whole safetensors file"):
    tensor_files.list_tensors(tmp_path)


def test_a_large_file_pointer_says_what_to_run(tmp_path):
  path = tmp_path / "model.safetensors"
  path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
  with pytest.raises(InputError, match="git lfs pull"):
    tensor_files.list_tensors(tmp_path)


def test_what_is_not_there_is_named(tmp_path):
  with pytest.raises(InputError, match="not a directory"):
    tensor_files.list_tensors(tmp_path / "absent")
  with pytest.raises(InputError, match=r"neither model\.safetensors"):
    tensor_files.list_tensors(tmp_path)
  with pytest.raises(InputError, match="does not exist"):
    tensor_files.list_file(tmp_path / "a.safetensors")


def _write_shards(folder, tensors):
  shards = {}
  for index, (name, value) in enumerate(tensors.items()):
    shards[name] = f"model-{index}.safetensors"
    _save(folder / shards[name], **{name: value})
  index = folder / "model.safetensors.index.json"
  index.write_text(json.dumps({"weight_map": shards}))
