"""Probabilities that mean what they say, and from which score on a label counts as present.

Both are fitted to scores of clips that the scoring model did not learn from: those of a data set's
folds, each scored by the model of the others. `line`: calibration. `thresholds`: one for all
labels and what each label changes of it. `background`: sound with none of the labels, in which any
alarm is a false one. `fit`: all of it for a checkpoint, and what it is worth.
"""

from atgnn.calibrate.background import Background
from atgnn.calibrate.fit import Fit, calibrate
from atgnn.calibrate.line import fit_calibration
from atgnn.calibrate.thresholds import CANDIDATES, Thresholds, fit_thresholds, mean_f1

__all__ = [
    "CANDIDATES",
    "Background",
    "Fit",
    "Thresholds",
    "calibrate",
    "fit_calibration",
    "fit_thresholds",
    "mean_f1",
]
