"""The definitions of ReSV in numpy: token by token, sorted, in float64.

Nothing here is shared with the package. A code is an array of booleans, a
table a list of clusters, WiCSum a sort.
"""

import numpy as np


def sign_bits(keys, planes):
  """b[..., 32 W]: whether key times plane is above 0."""
  return np.asarray(keys, np.float64) @ np.asarray(planes, np.float64) > 0


def pack(bits):
  """b[..., 32 W] -> u32[..., W]; bit p is bit p % 32 of word p // 32."""
  words = np.asarray(bits).reshape(*np.shape(bits)[:-1], -1, 32)
  weights = 2 ** np.arange(32, dtype=np.uint64)
  return (words * weights).sum(-1, dtype=np.uint64).astype(np.uint32)


def unpack(words):
  """u32[..., W] -> b[..., 32 W]."""
  words = np.asarray(words, np.uint32)
  bits = (words[..., None] >> np.arange(32, dtype=np.uint32)) & 1
  return bits.astype(bool).reshape(*words.shape[:-1], -1)


class Clusters:
  """One table: a token joins the nearest cluster, the oldest of equals."""

  def __init__(self, *, threshold, capacity, min_cosine=None, planes=None):
    self.threshold, self.capacity = threshold, capacity
    self.min_cosine, self.planes = min_cosine, planes
    self.codes, self.sums, self.counts, self.compared = [], [], [], []
    self.members = []  # cluster of every slot
    self.comparisons, self.full = 0, False

  def extend(self, codes, keys, valid, *, frozen=True, center=0.0):
    """One chunk. Frozen: cosines are with the means before the chunk."""
    self.compared = list(self.sums)
    for code, key, live in zip(codes, keys, valid, strict=True):
      if not frozen:
        self.compared = list(self.sums)
      self.members.append(self._add(code, key, center) if live else -1)

  def _add(self, code, key, center):
    self.comparisons += len(self.codes)
    distances = [int(np.sum(code != other)) for other in self.codes]
    near = [
      (distance, index)
      for index, distance in enumerate(distances)
      if distance < self.threshold and self._similar(key, index)
    ]
    if near:
      chosen = min(near)[1]
    elif len(self.codes) < self.capacity:
      chosen = len(self.codes)
      self.codes.append(code)
      self.sums.append(np.zeros(len(key)))
      self.counts.append(0)
      self.compared.append(np.asarray(key, np.float64))
    else:
      self.full = True
      return -1
    self.sums[chosen] = self.sums[chosen] + key
    self.counts[chosen] += 1
    if self.planes is not None:
      mean = self.sums[chosen] / self.counts[chosen]
      self.codes[chosen] = sign_bits(mean - center, self.planes)
    return chosen

  def _similar(self, key, index):
    if self.min_cosine is None:
      return True
    other = self.compared[index]
    bound = np.linalg.norm(key) * np.linalg.norm(other)
    return np.dot(key, other) >= self.min_cosine * bound

  @property
  def means(self):
    """f64[C, width]."""
    return np.stack(self.sums) / np.array(self.counts)[:, None]


def treat(scores, treatment):
  """Scores of live clusters as they are compared: f64[C]."""
  scores = np.asarray(scores, np.float64)
  if treatment == "shift_min":
    return scores - scores.min()
  if treatment == "exp":
    return np.exp(scores - scores.max())
  return scores


def wicsum(scores, counts, ratio, treatment="clamped"):
  """Clusters that one row keeps, by sorting: b[C]."""
  there = (np.asarray(counts) > 0) & (np.asarray(scores) > -np.inf)
  keep = np.zeros(len(there), bool)
  if ratio >= 1 or not there.any():
    return there
  score = treat(np.asarray(scores)[there], treatment)
  weighed = score if treatment == "raw" else np.maximum(score, 0)
  weighed = weighed * np.asarray(counts)[there]
  order = np.argsort(-score, kind="stable")
  passed = np.cumsum(weighed[order]) > weighed.sum() * ratio
  if score.max() <= 0:
    least = score.max()
  else:
    assert passed.any()
    least = score[order][np.argmax(passed)]
  keep[there] = score >= least
  return keep


def early_exit(scores, counts, ratio, treatment="clamped", buckets=20):
  """Whole buckets from the top: (b[C] kept, buckets and scores visited)."""
  there = (np.asarray(counts) > 0) & (np.asarray(scores) > -np.inf)
  if not there.any():
    return there, 0, 0
  if ratio >= 1:
    return there, buckets, int(there.sum())
  score = treat(np.asarray(scores)[there], treatment)
  value = np.maximum(score, 0) * np.asarray(counts)[there]
  signed = score * np.asarray(counts)[there]
  total = (signed if treatment == "raw" else value).sum()
  limit = max(total * ratio, 0.0)
  top, low = score.max(), score.min()
  for visited in range(1, buckets + 1):
    edge = top - (top - low) * visited / buckets
    taken = score >= edge if visited < buckets else np.ones(len(score), bool)
    if value[taken].sum() > limit:
      break
  keep = np.zeros(len(there), bool)
  keep[there] = taken if top > 0 else score == top
  return keep, visited, int(taken.sum())
