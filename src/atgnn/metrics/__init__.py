"""Numbers from scores, and how far they can be trusted.

`ranking`: average precision, AUC, d', lwlrap, accuracy. `summary`: all of them as one record.
`resampling`: intervals by drawing authors and their recordings, never clips. `calibration`: whether
a score of 0.8 is right four times in five.

Symbols: N clips, L labels, R resamples, U units of resampling. `targets` are 1 (present), 0
(absent) or NaN (unknown); an unknown cell takes no part. `scores` are any numbers that grow with
confidence: logits do as well as probabilities.
"""

from atgnn.metrics.calibration import Reliability, calibration_error, reliability
from atgnn.metrics.ranking import (
    accuracy,
    average_precision,
    d_prime,
    label_ranking,
    one_label,
    precision_recall,
    roc_auc,
)
from atgnn.metrics.resampling import Interval, Owners, cluster_interval, pivotal
from atgnn.metrics.summary import (
    ENOUGH,
    ClassMetrics,
    Metrics,
    Resampled,
    evaluate_scores,
    resample,
)

__all__ = [
    "ENOUGH",
    "ClassMetrics",
    "Interval",
    "Metrics",
    "Owners",
    "Reliability",
    "Resampled",
    "accuracy",
    "average_precision",
    "calibration_error",
    "cluster_interval",
    "d_prime",
    "evaluate_scores",
    "label_ranking",
    "one_label",
    "pivotal",
    "precision_recall",
    "reliability",
    "resample",
    "roc_auc",
]
