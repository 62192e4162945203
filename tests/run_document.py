"""Run the shell commands of a document, word by word, as a newcomer would.

    python tests/run_document.py docs/your_images.md FOLDER

FOLDER is made; this project is ~/mlp_backbones of a home folder in it.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def shell_blocks(document: Path) -> list[str]:
    return re.findall(
        r'^```bash\n(.*?)^```', document.read_text('utf-8'), re.DOTALL | re.MULTILINE
    )


def main(document: str, folder: str) -> None:
    home = Path(folder).resolve() / 'home'
    home.mkdir(parents=True)
    (home / 'mlp_backbones').symlink_to(ROOT)
    here = Path(folder) / 'empty'
    here.mkdir()
    script = 'set -euo pipefail\n' + '\n'.join(shell_blocks(Path(document)))
    run = subprocess.run(['bash', '-xc', script], cwd=here, env=dict(os.environ, HOME=str(home)))
    sys.exit(run.returncode)


if __name__ == '__main__':
    main(*sys.argv[1:])
