"""Draw the blocks of all families, one figure each: docs/images/block_*.svg.

    python tools/draw_blocks.py [FOLDER]

A row is a residual branch, from left to right; a box is a layer, and its colour says on
which axis it works. What the dashed frame holds meets the map through the resolution adapter.
"""

import argparse
from pathlib import Path

import matplotlib

matplotlib.use('agg')
from matplotlib import pyplot as plt
from matplotlib.patches import FancyBboxPatch, Rectangle

plt.rcParams.update(
    {'font.family': 'DejaVu Sans', 'font.size': 10, 'mathtext.fontset': 'dejavusans'}
)
plt.rcParams['svg.hashsalt'] = 'mlp_backbones'  # the same file every time

COLOURS = {
    'tokens': ('#f6b26b', 'mixes tokens'),
    'channels': ('#9fc5e8', 'mixes channels'),
    'norm': ('#d9d9d9', 'norm or scale, per channel'),
    'pointwise': ('#ffffff', 'pointwise'),
}
HEIGHT, GAP, LINE = 0.5, 0.3, dict(color='#333333', lw=1.2, zorder=1)
ARROW = dict(arrowstyle='-|>', shrinkA=0, shrinkB=0, color='#333333', lw=1.2)

NORM, AFFINE, BATCH_NORM = ('LayerNorm', 'norm'), ('Affine', 'norm'), ('BatchNorm', 'norm')
GELU = ('GELU', 'pointwise')
MAP_NORM = ('GroupNorm\nof one group', 'norm')
WIDE_MLP = [('Linear\n$d$ → $rd$', 'channels'), GELU, ('Linear\n$rd$ → $d$', 'channels')]
MLP = [('Linear\n$d$ → $4d$', 'channels'), GELU, ('Linear\n$4d$ → $d$', 'channels')]

# Rows of (input, boxes, output), and False where nothing bypasses the boxes. A list among the
# boxes goes through the adapter.
BLOCKS = {
    'mlp_mixer': [
        (
            '$X$',
            [
                NORM,
                [('Linear\n$N$ → $D_S$', 'tokens'), GELU, ('Linear\n$D_S$ → $N$', 'tokens')],
            ],
            '$U$',
        ),
        ('$U$', [NORM, *MLP], '$Y$'),
    ],
    'resmlp': [
        ('$X$', [AFFINE, [('Linear $A$\n$N$ → $N$', 'tokens')], ('LayerScale', 'norm')], '$Z$'),
        ('$Z$', [AFFINE, *MLP, ('LayerScale', 'norm')], '$Y$'),
    ],
    's2mlp': [
        (
            '$X$',
            [
                ('LayerNorm\nor Affine', 'norm'),
                ('Linear\n$d$ → $d$', 'channels'),
                GELU,
                ('spatial shift\n→  ←  ↓  ↑', 'tokens'),
                ('Linear\n$d$ → $d$', 'channels'),
            ],
            '$U$',
        ),
        ('$U$', [('LayerNorm\nor Affine', 'norm'), *MLP], '$Y$'),
    ],
    'poolformer': [
        (
            '$X$',
            [MAP_NORM, ('mean of 3 × 3\nminus token', 'tokens'), ('LayerScale', 'norm')],
            '$U$',
        ),
        ('$U$', [MAP_NORM, *MLP, ('LayerScale', 'norm')], '$Y$'),
    ],
    'convmlp': [
        ('$X$', [NORM, *WIDE_MLP], '$U$'),
        ('$U$', [NORM, ('depthwise\nconv 3 × 3', 'tokens')], '$Z$', False),
        ('$Z$', [NORM, *WIDE_MLP], '$Y$'),
    ],
    'vit': [
        ('$X$', [NORM, [('Attention\nQ, K, V in $h$ heads', 'tokens')]], '$U$'),
        ('$U$', [NORM, *MLP], '$Y$'),
    ],
}


def width(text: str) -> float:
    longest = max(len(line.replace('$', '')) for line in text.split('\n'))
    return max(0.25 + 0.095 * longest, 0.6)


def box(ax, x: float, y: float, text: str, kind: str) -> float:
    """A box with its left edge at x; returns its right edge."""
    w = width(text)
    style = FancyBboxPatch(
        (x, y - HEIGHT / 2),
        w,
        HEIGHT,
        boxstyle='round,pad=0,rounding_size=0.08',
        facecolor=COLOURS[kind][0],
        edgecolor='#333333',
        lw=1,
        zorder=3,
    )
    ax.add_patch(style)
    ax.text(x + w / 2, y, text, ha='center', va='center', fontsize=9, linespacing=1.25, zorder=4)
    return x + w


def arrow(ax, start: tuple[float, float], end: tuple[float, float]) -> None:
    ax.annotate('', end, start, arrowprops=ARROW, zorder=2)


def line(ax, *points: tuple[float, float]) -> None:
    ax.plot(*zip(*points, strict=True), **LINE)


def operator(ax, x: float, y: float, symbol: str) -> float:
    """A circle with its left edge at x; returns its right edge."""
    ax.add_patch(plt.Circle((x + 0.14, y), 0.14, facecolor='white', edgecolor='#333333', zorder=3))
    ax.text(x + 0.14, y - 0.008, symbol, ha='center', va='center', fontsize=11, zorder=4)
    return x + 0.28


def frame(ax, left: float, right: float, y: float, text: str = 'resolution adapter') -> None:
    low, high = y - HEIGHT / 2 - 0.12, y + HEIGHT / 2 + 0.12
    ax.add_patch(
        Rectangle(
            (left, low),
            right - left,
            high - low,
            fill=False,
            ls='--',
            ec='#b45f06',
            lw=1,
            zorder=2,
        )
    )
    ax.text(
        (left + right) / 2, low - 0.03, text, ha='center', va='top', fontsize=8, color='#b45f06'
    )


def chain(ax, x: float, y: float, boxes: list) -> float:
    """Boxes from x on, joined by arrows; returns the right edge of the last."""
    for item in boxes:
        if isinstance(item, list):
            left = x + GAP * 0.55
            x = chain(ax, x, y, item)
            frame(ax, left, x + GAP * 0.45, y)
            continue
        arrow(ax, (x, y), (x + GAP, y))
        x = box(ax, x + GAP, y, *item)
    return x


def begin(ax, y: float, name: str) -> float:
    ax.text(0.12, y, name, ha='center', va='center', fontsize=12)
    return 0.3


def end(ax, x: float, y: float, name: str, residual: float | None) -> float:
    """The sum with the residual, if any, which runs at the height ``residual``; returns the right
    edge.
    """
    if residual is not None:
        arrow(ax, (x, y), (x + GAP, y))
        centre = x + GAP + 0.14
        line(ax, (0.45, y), (0.45, residual), (centre, residual))
        arrow(ax, (centre, residual), (centre, y + 0.14))
        x = operator(ax, x + GAP, y, '+')
    arrow(ax, (x, y), (x + GAP, y))
    ax.text(x + GAP + 0.15, y, name, ha='center', va='center', fontsize=12)
    return x + GAP + 0.3


def draw_branches(ax, rows: list) -> tuple[float, float]:
    right, y = 0.0, 0.0
    for start, boxes, result, *bypassed in rows:
        x = begin(ax, y, start)
        line(ax, (x, y), (0.45, y))
        x = chain(ax, x + 0.15, y, boxes)
        residual = y + 0.55 if all(bypassed) else None
        right = max(right, end(ax, x, y, result, residual))
        y -= 1.45
    return right, y + 0.85


def draw_gmlp(ax) -> tuple[float, float]:
    """The gate has two ways through the block, and aMLP's attention a third."""
    x = begin(ax, 0, '$X$')
    line(ax, (x, 0), (0.45, 0))
    norm = chain(ax, 0.45, 0, [NORM])
    fork = chain(ax, norm, 0, [('Linear $U$\n$d$ → $6d$', 'channels'), GELU]) + 0.2
    line(ax, (fork - 0.2, 0), (fork, 0))

    gate = -1.05  # height of the gate's way
    line(ax, (fork, 0), (fork, gate))
    ax.text(fork + 0.3, 0.06, '$Z_1$', ha='center', va='bottom')
    ax.text(fork + 0.12, gate / 2, '$Z_2$', ha='left', va='center')
    last = chain(ax, fork, gate, [NORM, [('Linear $W, b$\n$N$ → $N$', 'tokens')]])
    plus = operator(ax, last + GAP, gate, '+') - 0.14
    arrow(ax, (last, gate), (last + GAP, gate))

    attention = -2.15
    line(ax, (norm + 0.12, 0), (norm + 0.12, attention))
    last = chain(ax, fork, attention, [[('tiny attention\n1 head', 'tokens')]])
    line(ax, (norm + 0.12, attention), (fork, attention))
    line(ax, (last, attention), (plus, attention))
    arrow(ax, (plus, attention), (plus, gate - 0.14))
    ax.text(norm + 0.2, attention + 0.06, 'aMLP only', ha='left', va='bottom', fontsize=8)

    arrow(ax, (fork, 0), (plus - 0.14, 0))
    arrow(ax, (plus, gate + 0.14), (plus, -0.14))
    x = operator(ax, plus - 0.14, 0, '×')
    x = chain(ax, x, 0, [('Linear $V$\n$3d$ → $d$', 'channels')])
    return end(ax, x, 0, '$Y$', 0.6), attention - 0.6


def draw_shift_gmlp(ax) -> tuple[float, float]:
    """The gate has a way for each half of its channels."""
    x = begin(ax, 0, '$X$')
    line(ax, (x, 0), (0.45, 0))
    fork = chain(ax, 0.45, 0, [('Linear $W_1$\n$d$ → $4d$', 'channels'), BATCH_NORM]) + 0.2
    line(ax, (fork - 0.2, 0), (fork, 0))
    near, far = -1.05, -2.15  # heights of the gate's ways
    line(ax, (fork, 0), (fork, far))
    boxes = fork + 0.4
    for y, text in ((0, '$U$'), (near, 'half'), (far, 'half')):
        line(ax, (fork, y), (boxes, y))
        ax.text(fork + 0.22, y + 0.06, text, ha='center', va='bottom', fontsize=10 - 2 * (y < 0))
    ax.text(fork + 0.12, near / 2, '$V$', ha='left', va='center')
    last = chain(ax, boxes, near, [('spatial shift\n→ ← ↓ ↑ ↘ ↙ ↗ ↖', 'tokens')])
    plus = operator(ax, last + GAP, near, '+') - 0.14
    arrow(ax, (last, near), (last + GAP, near))
    ax.text(plus + 0.2, near, '1', ha='left', va='center')
    end_of_far = chain(ax, boxes, far, [[('Linear $K$\n$N$ → $N$', 'tokens')]])
    line(ax, (end_of_far, far), (plus, far))
    arrow(ax, (plus, far), (plus, near - 0.14))
    last = chain(ax, boxes, 0, [('ReLU', 'pointwise')])
    arrow(ax, (last, 0), (plus - 0.14, 0))
    arrow(ax, (plus, near + 0.14), (plus, -0.14))
    x = operator(ax, plus - 0.14, 0, '×')
    x = chain(ax, x, 0, [('Linear $W_2$\n$2d$ → $d$', 'channels'), BATCH_NORM])
    return end(ax, x, 0, '$Y$', 0.6), far - 0.6


def legend(ax, y: float) -> float:
    x = 0.0
    for colour, text in COLOURS.values():
        ax.add_patch(Rectangle((x, y - 0.07), 0.2, 0.14, facecolor=colour, edgecolor='#333333'))
        ax.text(x + 0.28, y, text, ha='left', va='center', fontsize=8)
        x += 0.6 + 0.078 * len(text)
    return x


def save(draw, path: Path) -> None:
    figure, ax = plt.subplots()
    right, bottom = draw(ax)
    right = max(right, legend(ax, bottom - 0.1))
    left, right, bottom, top = -0.15, right + 0.1, bottom - 0.3, 0.8
    ax.set(xlim=(left, right), ylim=(bottom, top))
    ax.axis('off')
    ax.set_position((0, 0, 1, 1))
    figure.set_size_inches(right - left, top - bottom)
    # white, for readers with a dark page
    figure.savefig(
        path, facecolor='white', metadata={'Date': None} if path.suffix == '.svg' else {}
    )
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('folder', nargs='?', default='docs/images', type=Path)
    parser.add_argument('suffix', nargs='?', default='svg', help='svg, png or pdf')
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    save(draw_gmlp, args.folder / f'block_gmlp.{args.suffix}')
    save(draw_shift_gmlp, args.folder / f'block_shift_gmlp.{args.suffix}')
    for name, rows in BLOCKS.items():
        save(
            lambda ax, rows=rows: draw_branches(ax, rows),
            args.folder / f'block_{name}.{args.suffix}',
        )


if __name__ == '__main__':
    main()
