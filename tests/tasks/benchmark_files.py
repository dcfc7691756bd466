"""Small annotations in the published forms of benchmarks."""

import json

__all__ = ["COIN", "MLVU", "OVO", "REKV", "RVS", "STREAMINGBENCH", "write_json"]

_STEPS = [
  {"id": "1", "label": "cut the bread", "segment": [0.2, 1.4]},
  {"id": "2", "label": "spread the butter", "segment": [2.0, 3.0]},
  {"id": "3", "label": "process (crop, fold) paper", "segment": [3.5, 5.0]},
]
COIN = {
  "database": {
    "a1": {
      "class": "MakeSandwich",
      "start": 0.2,
      "end": 5.0,
      "duration": 6.0,
      "subset": "testing",
      "annotation": _STEPS,
    },
    "b2": {
      "class": "ReplaceSIMCard",
      "start": 0.0,
      "end": 2.0,
      "subset": "training",
      "annotation": [{"label": "take out the card", "segment": [0.5, 1.0]}],
    },
  }
}
RVS = [
  {
    "video_id": "v1",
    "video_path": "ego/v1.npy",
    "duration": 6,
    "conversations": [
      {"question": "who?", "answer": "a man", "start_time": 2, "end_time": 4},
      {
        "question": "what?",
        "answer": "a cup",
        "start_time": 0,
        "end_time": 1.5,
      },
    ],
  }
]
_CHOICE = {
  "task_type": "Counting",
  "question": "How many?",
  "time_stamp": "00:00:02",
  "answer": "B",
  "options": ["A. one", "B. two", "C. three", "D. four"],
  "required_ability": "perception",
}
STREAMINGBENCH = [
  {
    "time": "[0:00:00 - 0:01:00]",
    "video_categories": "sports",
    "video_path": "./videos/s1.mp4",
    "questions": [_CHOICE],
  },
  {
    "time": "[0:00:00 - 0:01:00]",
    "video_categories": "sports",
    "video_path": "./videos/s1.mp4",
    "questions": [{**_CHOICE, "time_stamp": "00:00:01", "answer": "D"}],
  },
]
OVO = [
  {
    "id": 0,
    "task": "EPM",
    "video": "ego/o1.mp4",
    "realtime": 4.0,
    "question": "Where was it?",
    "answer": "left",
    "options": ["right", "left"],
    "gt": 1,
  },
  {
    "id": 1,
    "task": "REC",
    "video": "ego/o1.mp4",
    "activity": "jump",
    "start_times": [1],
    "end_times": [2],
    "test_info": [{"realtime": 1.0, "count": 0}, {"realtime": 3, "count": 12}],
  },
  {
    "id": 2,
    "task": "SSR",
    "video": "o2.mp4",
    "tutorial": "tea",
    "test_info": [{"realtime": 1.0, "step": "boil", "type": 1}],
  },
  {
    "id": 3,
    "task": "CRR",
    "video": "o2.mp4",
    "question": "What falls?",
    "answer": "a cup",
    "ask_time": 0.5,
    "clue_time": 2.0,
    "test_info": [{"realtime": 1.5, "type": 0}],
  },
]
MLVU = [
  {
    "video": "m1.mp4",
    "duration": 6.0,
    "question": "What colour?",
    "candidates": ["red", "blue"],
    "answer": "blue",
    "question_type": "plotQA",
  },
  {
    "video": "m2.mp4",
    "duration": 6.0,
    "question": "Summarise.",
    "answer": "A long story.",
    "question_type": "summary",
  },
]
REKV = [
  {
    "video_id": "q1",
    "video_path": "q1.mp4",
    "duration": 6,
    "conversations": [
      {
        "question": "Where is the key?",
        "choices": ["box", "bag", "car", "bin"],
        "answer": "car",
        "question_type": "qaego4d",
        "temporal_windows": [[0, 1]],
      }
    ],
  }
]


def write_json(path, value):
  """Writes an annotation, and the folder it lies in."""
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(json.dumps(value))
  return path
