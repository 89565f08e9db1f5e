"""What `mkdocs build` makes besides the pages of docs/.

- Files elsewhere in the repository that a page links to, and what those link to, become pages of
  the site (text and source) or are copied (the rest). A link to nothing stops a strict build.
- The API reference: one page for each room of the package, from the source as it is.
- Pages of docs/ that mkdocs.yml does not name follow at the end of Guides.
- ``$$ ... $$`` becomes MathML, so that no script has to be fetched to show it.
- A page that would fetch anything from elsewhere is a warning, and stops a strict build.
"""

from __future__ import annotations

import ast
import logging
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
DOCS, PACKAGE = ROOT / "docs", ROOT / "src" / "atgnn"
ELSEWHERE = "repository"  # where files from outside docs/ are in the site
SOURCE = {".py": "python", ".yaml": "yaml", ".yml": "yaml", ".cff": "yaml", "": "text"}
INNER = {"__init__", "__main__", "cli", "startup", "terminal"}  # nothing to call from Python

LINK = re.compile(r"(?<!!)(!?\[[^\]]*\]\()([^)\s#]+)(#[^)\s]*)?(\))")
FENCE = re.compile(r"(?ms)^( *)(```|~~~).*?^\1\2[^\n]*$")
FORMULA = re.compile(r"(?ms)^\$\$\s*$(.*?)^\$\$\s*$|^\$\$(.+?)\$\$\s*$")
FETCHED = re.compile(
    r"""<(?:script|img|iframe|audio|video|source)\b[^>]*\bsrc=["']?(?:https?:)?//[^"'\s>]+"""
    r"""|<link\b[^>]*\bhref=["']?(?:https?:)?//[^>]+rel=["']?(?:stylesheet|preconnect|icon)"""
    r"""|<link\b[^>]*rel=["']?(?:stylesheet|preconnect|icon)[^>]*href=["']?(?:https?:)?//[^>]+""",
    re.IGNORECASE,
)

log = logging.getLogger("mkdocs.hooks.atgnn")


# ---------------------------------------------------------------- what there is


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Complete the navigation: guides that nobody listed, and the API."""
    named = set(_strings(config.nav))
    rest = [page.name for page in sorted(DOCS.glob("*.md")) if page.name not in named]
    for section in config.nav or []:
        if "Guides" in section:
            section["Guides"] += rest
        if "API" in section:
            section["API"] = [{room: f"api/{room}.md"} for room in rooms()]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the API pages, and whatever pages link to outside docs/."""
    for room, modules in rooms().items():
        files.append(File.generated(config, f"api/{room}.md", content=_api_page(room, modules)))
    waiting = [ROOT / "docs" / one.src_uri for one in files if one.is_documentation_page()]
    known: set[Path] = set()
    while waiting:
        page = waiting.pop()
        if not page.is_file():
            continue
        for path in _linked(page):
            if path not in known and not path.is_relative_to(DOCS):
                known.add(path)
                files.append(_brought(config, path))
                if path.suffix == ".md":
                    waiting.append(path)
    return files


def rooms() -> dict[str, list[str]]:
    """Rooms of the package and their modules that offer names (``__all__``)."""
    found: dict[str, list[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if parts[0] in INNER or not _offers(path):
            continue
        dotted = ".".join(("atgnn", *(part for part in parts if part != "__init__")))
        found.setdefault(parts[0], []).append(dotted)
    return found


def _offers(path: Path) -> bool:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return any(
        isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and node.targets[0].id == "__all__"
        for node in tree.body
    )


def _api_page(room: str, modules: list[str]) -> str:
    # A package's __init__ repeats names of its modules: its own words, and the modules in full.
    parts = [f"# atgnn.{room}\n"]
    for module in modules:
        package = len(modules) > 1 and module == f"atgnn.{room}"
        members = "\n    options: {members: false}" if package else ""
        parts.append(f"::: {module}{members}\n")
    return "\n".join(parts)


# ---------------------------------------------------------------- links that leave docs/


def _linked(page: Path) -> Iterator[Path]:
    """Files of the repository that a page links to; a folder stands for its README."""
    for match in LINK.finditer(FENCE.sub("", page.read_text(encoding="utf-8"))):
        path = _target(page, match[2])
        if path is not None:
            yield path


def _target(page: Path, link: str) -> Path | None:
    if "://" in link or link.startswith(("mailto:", "/")):
        return None
    path = (page.parent / link).resolve()
    if path.is_dir():
        path = path / "README.md" if (path / "README.md").is_file() else path / "__init__.py"
    return path if path.is_file() and path.is_relative_to(ROOT) else None


def _uri(path: Path) -> str:
    """Where a file of the repository is among the site's sources."""
    if path.is_relative_to(DOCS):
        return path.relative_to(DOCS).as_posix()
    name = path.relative_to(ROOT).as_posix()
    return f"{ELSEWHERE}/{name}" + (".md" if path.suffix in SOURCE else "")


def _brought(config: MkDocsConfig, path: Path) -> File:
    outside = InclusionLevel.NOT_IN_NAV
    if path.suffix in SOURCE:
        text = (
            f"# {path.relative_to(ROOT)}\n\n````{SOURCE[path.suffix]}\n{path.read_text()}\n````\n"
        )
        return File.generated(config, _uri(path), content=text, inclusion=outside)
    return File.generated(config, _uri(path), abs_src_path=str(path), inclusion=outside)


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links out of docs/ to where these files are in the site; typeset formulas."""
    uri = page.file.src_uri
    outside = uri.startswith(f"{ELSEWHERE}/")
    origin = ROOT / uri.removeprefix(f"{ELSEWHERE}/") if outside else DOCS / uri

    def moved(match: re.Match[str]) -> str:
        path = _target(origin, match[2])
        if path is None:
            return match[0]
        link = posixpath.relpath(_uri(path), posixpath.dirname(uri) or ".")
        return f"{match[1]}{link}{match[3] or ''}{match[4]}"

    def prose(text: str) -> str:
        return FORMULA.sub(_mathml, LINK.sub(moved, text))

    return _outside_fences(markdown, prose)


def _outside_fences(text: str, change: object) -> str:
    """`change` applied to everything but fenced blocks."""
    done, at = [], 0
    for fence in FENCE.finditer(text):
        done += [change(text[at : fence.start()]), fence[0]]  # type: ignore[operator]
        at = fence.end()
    return "".join([*done, change(text[at:])])  # type: ignore[operator]


def _mathml(match: re.Match[str]) -> str:
    formula = convert((match[1] or match[2]).strip(), display="block")
    return f'<div class="formula">{formula}</div>\n'


# ---------------------------------------------------------------- nothing is fetched


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Warn where a page would fetch something from elsewhere."""
    for match in FETCHED.finditer(output):
        log.warning("%s would fetch %s", page.file.src_uri, match[0])
    return output


def _strings(node: object) -> Iterator[str]:
    if isinstance(node, str):
        yield node
    elif isinstance(node, dict):
        for value in node.values():
            yield from _strings(value)
    elif isinstance(node, list):
        for value in node:
            yield from _strings(value)
