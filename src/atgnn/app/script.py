"""What the page does in the browser: choosing a label, keys of the review, words of our own."""

from __future__ import annotations

import json

from atgnn.app.settings import AppSettings
from atgnn.errors import counted

__all__ = ["CHOOSE", "head", "too_large", "too_many"]

#: A click, or Enter and Space on a button that has the focus, chooses its label.
CHOOSE = """
element.addEventListener('click', event => {
  const button = event.target.closest('button[data-label]');
  if (!button) return;
  element.querySelectorAll('button[data-label]').forEach(one =>
    one.setAttribute('aria-pressed', one.dataset.label === button.dataset.label));
  trigger('click', {label: button.dataset.label});
});
"""

#: Keys of the review while its tab is open and nothing is being typed: a verdict, or the sound.
KEYS = """
document.addEventListener('keydown', event => {
  const typing = event.target.closest('input, textarea, select, [contenteditable]');
  const verdicts = document.querySelector('#verdicts');
  if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
  if (!verdicts || !verdicts.getClientRects().length) return;  // another tab is open
  const key = event.key.toLowerCase();
  const kind = {y: 'accept', n: 'reject', s: 'skip', b: 'back'}[key];
  if (kind) {
    document.querySelector(`#verdict-${kind}`).click();
  } else if (key === 'p') {
    const sound = document.querySelector('#segment audio');
    if (sound) sound.paused ? sound.play() : sound.pause();
  } else return;
  event.preventDefault();
});
"""

#: Who judges is kept in the visitor's browser, and nowhere else, until the next visit.
WHO = """
const keep = () => {
  const box = document.querySelector('#who textarea, #who input');
  if (!box || box.dataset.kept) return;
  box.dataset.kept = 'yes';
  box.addEventListener('input', () => localStorage.setItem('atgnn-who', box.value));
  const name = localStorage.getItem('atgnn-who');
  if (name && !box.value) {
    box.value = name;
    box.dispatchEvent(new Event('input', {bubbles: true}));
  }
};
"""

#: Gradio says some things itself, before our server hears of them. They are put in our words.
WORDS = """
const reword = node => node.querySelectorAll('[data-testid=toast-text]').forEach(text => {
  for (const [pattern, words] of SAID) {
    const found = text.textContent.match(new RegExp(pattern, 'i'));
    if (!found) continue;
    text.textContent = words.replace('{}', (found[1] || 'The recording').replace(/"/g, ''));
    const title = text.closest('[data-testid=toast-body]').querySelector('.toast-title');
    if (title) title.textContent = 'Not done';
  }
});
new MutationObserver(changes => {
  changes.forEach(change => change.addedNodes.forEach(
    node => node.querySelectorAll && reword(node)
  ));
  keep();
}).observe(document.documentElement, {childList: true, subtree: true});
"""


def too_large(settings: AppSettings) -> str:
    """What is said of a recording over the limit of size; ``{}`` is its name."""
    return (
        f"{{}}: larger than the {settings.most_mb:g} MB that this page takes: send a part of it, "
        "or use `atgnn tag` in a terminal, which takes any size"
    )


def too_many(settings: AppSettings) -> str:
    """What is said where nobody more may wait."""
    waiting = counted(settings.queue, "person is", "people are")
    return f"{waiting} waiting already, and more cannot: try again in a minute"


def head(settings: AppSettings) -> str:
    """The scripts of the page, for its head."""
    lost = "The server does not answer: is `atgnn app` still running? Then load the page again."
    said = [
        ("exceed the maximum allowed size[^:]*: (.*)", too_large(settings)),
        ("currently busy|queue is full", too_many(settings)),
        ("connection errored|connection to the server was lost|failed to fetch", lost),
    ]
    # No text may end the script early.
    data = json.dumps(said).replace("</", "<\\/")
    return f"<script>const SAID = {data};{WHO}{WORDS}{KEYS}</script>"
