"""Debian's Chromium, for the tests of the page at `/` and for its pictures."""

import os
import pathlib
import shutil

ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]


def chromium():
    """The browser's path, or None where there is none."""
    found = os.environ.get("CHROMIUM") or "/usr/bin/chromium"
    return found if pathlib.Path(found).exists() else shutil.which("chromium")


def launch(playwright, **options):
    """Without a sandbox, which containers do not allow; nothing but the daemon's own page is opened."""
    return playwright.chromium.launch(executable_path=chromium(), args=ARGUMENTS, **options)
