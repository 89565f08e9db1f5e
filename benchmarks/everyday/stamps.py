"""The models that ship on sounds of a source that none of them knows: Tux Paint's stamps.

    python -m benchmarks.everyday.stamps STAMPS [--models MODEL ...]

`STAMPS` is the folder of Debian's package `tuxpaint-stamps-default` (GPL-2): /usr/share/tuxpaint/
stamps, or DIR/usr/share/tuxpaint/stamps after `dpkg-deb -x PACKAGE.deb DIR`. Nothing was trained,
chosen or calibrated on it. What is in a file is read off its name, nobody listened:

- nine sounds of labels that the models know: how high the right label stands, and whether it
  reaches its threshold;
- animals of none of the labels, and English letters spoken by one voice: how many raise a label.
"""

import argparse
from pathlib import Path

from atgnn import Tagger
from atgnn.shipped import shipped_models

KNOWN = {
    "animals/birds/rooster": "Crowing_and_cock-a-doodle-doo",
    "animals/mammals/dogs/dog": "Bark",
    "hobbies/music/percussion/cymbal_crash": "Cymbal",
    "hobbies/music/percussion/drum_tomtom_floor": "Drum",
    "hobbies/music/percussion/drumkit": "Drum",
    "hobbies/music/string/cello": "Musical_instrument",
    "hobbies/music/string/violin": "Musical_instrument",
    "hobbies/music/wind/bassoon": "Musical_instrument",
    "military/final-roll-call": "Musical_instrument",
}


def sounds(folder: Path, part: str) -> list[Path]:
    """Of a part of the collection; spoken descriptions are left out."""
    return sorted(p for p in (folder / part).rglob("*.ogg") if "_desc" not in p.stem)


def known(tagger: Tagger, folder: Path) -> str:
    """How the sounds of known labels fare."""
    first, reached, lines = 0, 0, []
    for name, label in KNOWN.items():
        path = folder / f"{name}.ogg"
        ranked = [
            tag.label for tag in tagger.tag(path, top=len(tagger.labels), ancestors=True).tags
        ]
        above = {tag.label for tag in tagger.tag(path, ancestors=True).tags}
        place = ranked.index(label) + 1
        first += place == 1
        reached += label in above
        lines.append(
            f"{Path(name).name}: {label} {'above' if label in above else 'below'}, {place}"
        )
    return "\n  ".join([f"{first} of {len(KNOWN)} first, {reached} above their threshold", *lines])


def alarmed(tagger: Tagger, paths: list[Path]) -> str:
    """How many of these, which have none of the labels, raise one."""
    raised = sum(bool(tagging.tags) for tagging in tagger.tag_many(paths))
    return f"{raised} of {len(paths)}"


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("stamps", type=Path)
    parser.add_argument("--models", nargs="+", default=shipped_models())
    args = parser.parse_args()
    taken = {args.stamps / f"{name}.ogg" for name in KNOWN}
    animals = [path for path in sounds(args.stamps, "animals") if path not in taken]
    letters = sounds(args.stamps, "symbols/alphabets/english")
    if not animals or not letters:
        parser.error(f"{args.stamps} has no animals or no letters: is it the folder `stamps`?")
    for model in args.models:
        tagger = Tagger.from_pretrained(model)
        print(f"{model}: {known(tagger, args.stamps)}")
        print(f"  other animals that raise a label: {alarmed(tagger, animals)}")
        print(f"  spoken letters that raise a label: {alarmed(tagger, letters)}", flush=True)


if __name__ == "__main__":
    main()
