"""Words of messages: one place makes the plural."""

import re
from pathlib import Path

import atgnn
from atgnn.errors import counted


def test_one_of_a_thing_is_no_plural():
    assert counted(1, "clip") == "1 clip"
    assert counted(0, "clip") == "0 clips"
    assert counted(2, "class", "classes") == "2 classes"
    assert counted(1, "clip is", "clips are") == "1 clip is"


def test_nobody_else_makes_plurals():
    own = re.compile(r"""(['"])e?s\1 (\*|if)|if [\w.()]+ == 1 else ['"]e?s""")
    root = Path(atgnn.__file__).parent
    found = [path for path in root.rglob("*.py") if own.search(path.read_text(encoding="utf-8"))]
    assert found == []
    assert own.search("'s' * (n > 1)")
    assert own.search("\"\" if count == 1 else 's'")
