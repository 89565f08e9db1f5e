"""Other people's models: their scores become a score file of ours.

    labels -> which label each of their columns is, and the column of each label of another
              vocabulary: by AudioSet identifier
    names  -> which clip each of their rows is
    arrays -> what lies in their files: .npy, .npz, .pt, .h5, .csv, .parquet
    importing -> all of it together: `atgnn import`
    huggingface -> any audio classification model of `transformers`, listening itself:
              `atgnn score hf:NAME`

A `ScoreTable` is what `compare`, `enhance`, `evaluate --scores` and distillation take.
"""

from atgnn.others.importing import Imported, import_scores
from atgnn.others.labels import LabelMap, mapped, read_labels, target_labels

__all__ = ["Imported", "LabelMap", "import_scores", "mapped", "read_labels", "target_labels"]
