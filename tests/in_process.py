"""Tools as in a shell, without the start of a Python that imports the whole stack again."""

import runpy
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def run_tool(monkeypatch, name, *arguments):
    """What ``tools/name`` gives to sys.exit, run in the repository's root: a code or a message."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, 'argv', [f'tools/{name}', *map(str, arguments)])
    try:
        runpy.run_path(sys.argv[0], run_name='__main__')
    except SystemExit as end:
        return end.code
