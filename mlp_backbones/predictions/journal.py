"""What has been predicted so far, so that a run that was stopped goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

NAME = 'journal.jsonl'


class Journal:
    """A file with a line for each image or video that is done, after one of settings.

    Args:
        out: The folder of the results, which is made if it is not there.
        settings: What results depend on, as plain data.

    Raises:
        ValueError: the folder holds results of other settings.
    """

    def __init__(self, out: Path, settings: dict[str, Any]):
        self.path = out / NAME
        self.entries: dict[str, dict] = {}
        lines = self._read()
        if lines and lines[0] != settings:
            keys = [k for k in settings if lines[0].get(k) != settings[k]]
            before = ', '.join(f'{k}={lines[0].get(k)}' for k in keys)
            now = ', '.join(f'{k}={settings[k]}' for k in keys)
            raise ValueError(
                f'{out} holds results of {before}; this run has {now}. Give another folder, or '
                'remove that one.'
            )
        self.entries = {line['name']: line for line in lines[1:]}
        out.mkdir(parents=True, exist_ok=True)
        if not lines:
            self._append(settings)

    def _read(self) -> list[dict]:
        """Its lines, but for one that was cut off, which is taken out."""
        if not self.path.is_file():
            return []
        content = self.path.read_bytes()
        whole = content[: content.rfind(b'\n') + 1]
        if whole != content:
            with self.path.open('rb+') as file:
                file.truncate(len(whole))
        return [json.loads(line) for line in whole.splitlines()]

    def _append(self, line: dict) -> None:
        with self.path.open('a', encoding='utf-8') as file:
            file.write(json.dumps(line) + '\n')

    def has(self, name: str, path: Path) -> bool:
        """Whether an input is done.

        Raises:
            ValueError: another file of that name is.
        """
        entry = self.entries.get(name)
        if entry is not None and entry['path'] != str(path):
            raise ValueError(
                f'{self.path.parent} holds results of {entry["path"]} under the name {name}, '
                f'which {path} would have; give another folder'
            )
        return entry is not None

    def add(self, name: str, path: Path, images: list[dict]) -> None:
        """Say that an input is done, with the size, and what was found, of each of its images."""
        entry = dict(name=name, path=str(path), images=images)
        self._append(entry)
        self.entries[name] = entry
