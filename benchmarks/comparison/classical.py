"""What came before networks: statistics of a spectrogram, and a classifier of scikit-learn.

    python -m benchmarks.comparison.classical tune --data ESC10 [--trials 12 --tests 1 3]

- `mfcc-svm`: mean and standard deviation over time of MFCCs, of their first and their second
  differences (regression over nine frames), standardised; a support vector machine with a radial
  kernel for each label.
- `logmel-forest`: for every mel bin mean, deviation and quantiles over time, and how fast it
  changes; a random forest.

Both have settings, drawn at random (`draw`) and chosen on validation folds like those of the
networks beside them. Both give one score for each label, so that one label per clip and several
are the same to them.

`tune` scores every trial on validation folds of ESC-10 by the protocol of benchmarks/esc10: with
fold F as the test, which is not heard, the next fold validates and three train.

N clips, T frames, F mel bins, S labels.
"""

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.fft import dct
from scipy.signal import savgol_filter
from sklearn.ensemble import RandomForestClassifier
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from atgnn.data import Clips
from atgnn.data.store import SCALE, decode
from atgnn.frontend import FrontEnd, FrontEndConfig

FRONT_END = FrontEndConfig(n_mels=64)  # 25 ms every 10 ms, up to 8 kHz
FOLDS = (1, 2, 3, 4, 5)
REACH = 9  # frames of the regression that differences are slopes of
SILENT = 1e-3  # a frame within so many nats of the quietest there can be is digital silence

#: Values that each setting may have. The first ones are the default: the best that was found on
#: ESC-10's folds 2 and 4, which validate in `tune --tests 1 3`.
SPACES: dict[str, dict[str, tuple[Any, ...]]] = {
    "mfcc-svm": {
        "coefficients": (20, 13, 30, 40),
        "C": (3.0, 1.0, 10.0, 30.0, 100.0),
        "gamma": (1.0, 0.3, 3.0),  # of the usual: one over the number of features
        "mean_differences": (False, True),
        "skip_silence": (True, False),
    },
    "logmel-forest": {
        "trees": (500,),
        "features": ("sqrt", 0.1, 0.3),
        "leaf": (1, 2, 4),
        "quantiles": (True, False),
        "skip_silence": (True, False),
    },
}


@dataclass(frozen=True)
class Trained:
    """A classifier and what it is told of a clip."""

    system: str
    settings: dict[str, Any]
    classifier: Any

    def scores(self, mels: Sequence[np.ndarray]) -> np.ndarray:
        """Scores of clips (N, S): larger for likelier labels, on no common scale."""
        features = features_of(self.system, self.settings, mels)
        if self.system == "mfcc-svm":
            return np.asarray(self.classifier.decision_function(features)).reshape(len(mels), -1)
        shares, classes = self.classifier.predict_proba(features), self.classifier.classes_
        if not isinstance(shares, list):  # of one label alone
            shares, classes = [shares], [classes]
        # Classes are 0 and 1, or one of them where all training clips agreed.
        return np.stack([s @ c.astype(float) for s, c in zip(shares, classes, strict=True)], 1)


def log_mels(clips: Iterable[Any]) -> list[np.ndarray]:
    """Log-mel spectrograms (T, F) of clips."""
    front_end = FrontEnd(FRONT_END)
    mels = []
    with torch.inference_mode():
        for clip in clips:
            wave = torch.from_numpy(decode(clip, FRONT_END.sample_rate) * np.float32(SCALE))
            mels.append(front_end.log_mel(wave[None])[0][0].numpy())
    return mels


def draw(system: str, trials: int, seed: int) -> list[dict[str, Any]]:
    """Different settings to try: the default and `trials` - 1 drawn ones (all, if fewer exist)."""
    space = SPACES[system]
    first = {name: values[0] for name, values in space.items()}
    drawn, random = [first], np.random.default_rng(seed)
    most = min(trials, int(np.prod([len(values) for values in space.values()])))
    while len(drawn) < most:
        one = {name: values[random.integers(len(values))] for name, values in space.items()}
        if one not in drawn:
            drawn.append(one)
    return drawn


def train(
    system: str,
    settings: dict[str, Any],
    mels: Sequence[np.ndarray],
    targets: np.ndarray,
    seed: int,
) -> Trained:
    """A classifier of clips with `targets` (N, S), True where a label holds."""
    features = features_of(system, settings, mels)
    classifier = untrained(system, settings, features.shape[1], seed)
    wanted = targets.astype(int)
    wanted = wanted[:, 0] if wanted.shape[1] == 1 else wanted  # as scikit-learn wants one label
    return Trained(system, settings, classifier.fit(features, wanted))


def untrained(system: str, settings: dict[str, Any], width: int, seed: int) -> Any:
    """The classifier of a system, for features of this width, that has learned nothing yet."""
    if system == "mfcc-svm":
        machine = SVC(C=settings["C"], gamma=settings["gamma"] / width, class_weight="balanced")
        return make_pipeline(StandardScaler(), OneVsRestClassifier(machine))
    return RandomForestClassifier(
        settings["trees"],
        max_features=settings["features"],
        min_samples_leaf=settings["leaf"],
        random_state=seed,
    )


# ---------------------------------------------------------------------- features


def features_of(system: str, settings: dict[str, Any], mels: Sequence[np.ndarray]) -> np.ndarray:
    """What a classifier is told of clips: one row for each (N, K)."""
    features = mfcc_statistics if system == "mfcc-svm" else mel_statistics
    return np.stack([features(mel, settings) for mel in mels])


def mfcc_statistics(mel: np.ndarray, settings: dict[str, Any]) -> np.ndarray:
    """Mean and deviation of MFCCs and of their slopes and curvatures in time, (K,)."""
    cepstrum = dct(mel, norm="ortho", axis=1)[:, : settings["coefficients"]]
    parts = []
    for order in (0, 1, 2):
        values = (slopes(cepstrum, order) if order else cepstrum)[_heard(mel, settings)]
        if order == 0 or settings["mean_differences"]:
            parts.append(values.mean(0))
        parts.append(values.std(0))
    return np.concatenate(parts)


def mel_statistics(mel: np.ndarray, settings: dict[str, Any]) -> np.ndarray:
    """Of every mel bin: mean, deviation, mean change between frames, and quantiles; (K,)."""
    values = mel[_heard(mel, settings)]
    change = np.abs(np.diff(values, axis=0)) if len(values) > 1 else np.zeros_like(values)
    parts = [values.mean(0), values.std(0), change.mean(0)]
    if settings["quantiles"]:
        parts += list(np.quantile(values, (0.1, 0.5, 0.9), axis=0))
    return np.concatenate(parts)


def slopes(values: np.ndarray, order: int) -> np.ndarray:
    """Derivatives in time (T, K) by regression over nine frames; the ends go on as they are."""
    return np.asarray(
        savgol_filter(values, REACH, polyorder=order, deriv=order, axis=0, mode="nearest")
    )


def _heard(mel: np.ndarray, settings: dict[str, Any]) -> np.ndarray:
    """Which frames count (T,): all, or those with any sound; all of a clip that is silent."""
    loud = mel.max(1) > np.log(np.finfo(np.float32).eps) + SILENT
    return loud if settings["skip_silence"] and loud.any() else np.ones(len(mel), bool)


# ---------------------------------------------------------------------- ESC-10


def tune(data: Path, trials: int, tests: Sequence[int], seed: int) -> None:
    """Accuracy of every trial on validation folds; the test folds are not heard."""
    clips = Clips.read(data)
    mels, folds = log_mels(clips), clips.column("fold").astype(int)
    names = np.asarray(clips.column("category"), str)
    targets = names[:, None] == np.unique(names)
    for system in SPACES:
        for settings in draw(system, trials, seed):
            right = []
            for test in tests:
                scored = folds == test % len(FOLDS) + 1
                known = ~scored & (folds != test)
                some = [mel for mel, here in zip(mels, known, strict=True) if here]
                model = train(system, settings, some, targets[known], seed)
                unseen = [mel for mel, here in zip(mels, scored, strict=True) if here]
                chosen = model.scores(unseen).argmax(1)
                right.append(targets[scored][np.arange(len(chosen)), chosen].mean())
            said = " ".join(f"{name}={value}" for name, value in settings.items())
            each = " ".join(f"{value:.3f}" for value in right)
            print(f"{system:14} {np.mean(right):.4f}  ({each})  {said}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("tune", help="validation accuracy of every trial")
    command.add_argument("--data", type=Path, required=True)
    command.add_argument("--trials", type=int, default=12)
    command.add_argument("--tests", type=int, nargs="+", default=list(FOLDS))
    command.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    tune(args.data, args.trials, args.tests, args.seed)


if __name__ == "__main__":
    main()
