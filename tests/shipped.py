"""The configs that this project ships."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = sorted(p for p in (ROOT / 'configs').rglob('*.py') if '_base_' not in p.parts)
# Those of classifiers need mmpretrain: test_pretrain.py loads and builds them.
CLASSIFIERS = [path for path in CONFIGS if path.parent.name == 'pretrain']
DETECTORS_AND_SEGMENTORS = [path for path in CONFIGS if path not in CLASSIFIERS]
# Each of a checkpoint that others have trained.
PUBLISHED = [path for path in CONFIGS if path.parent.name in ('poolformer', 'convmlp')]
THEIR_BASES = sorted(
    p
    for p in (ROOT / 'configs').rglob('*.py')
    if '_base_' in p.parts and 'pretrain' not in p.parts
)


def name(path: Path) -> str:
    """Of a config, as the name of a test: below configs/, without .py."""
    return str(path.relative_to(ROOT / 'configs').with_suffix(''))
