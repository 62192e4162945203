"""Charts as SVG, to stand in a page."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

STYLE = {'svg.fonttype': 'none', 'font.family': 'sans-serif', 'font.size': 11}
WITH_NUMBERS = 15  # classes, up to which a confusion matrix has room for numbers


def curves(
    x: Sequence[float],
    lines: Mapping[str, Sequence[float]],
    before: Mapping[str, Sequence[float]] | None = None,
) -> str:
    """Precision against recall; those of another run of the same names dashed."""
    with rc_context(STYLE):
        figure = Figure(figsize=(5.2, 3.9), layout='constrained')
        axes = figure.subplots()
        for i, (name, y) in enumerate(lines.items()):
            axes.plot(x, y, color=f'C{i}', label=name)
            if before and name in before:
                axes.plot(x, before[name], '--', color=f'C{i}', linewidth=1)
        axes.set(xlabel='recall', ylabel='precision', xlim=(0, 1), ylim=(0, 1.02))
        axes.grid(alpha=0.3)
        axes.legend(fontsize=9)
        return _svg(figure)


def matrix(counts: np.ndarray, names: Sequence[str]) -> str:
    """A confusion matrix, true (rows) by predicted, coloured by the share of its row."""
    rows = counts.sum(1, keepdims=True)
    share = np.divide(counts, rows, out=np.zeros(counts.shape), where=rows > 0)
    size = min(14.0, max(4.2, 2.4 + 0.55 * len(names)))
    with rc_context(STYLE):
        figure = Figure(figsize=(size, size * 0.92), layout='constrained')
        axes = figure.subplots()
        axes.imshow(share, cmap='Blues', vmin=0, vmax=1)
        font = min(10, 45 * size / len(names))  # points, of 72 to an inch
        places = range(len(names))
        axes.set_xticks(places, names, rotation=90, fontsize=font)
        axes.set_yticks(places, names, fontsize=font)
        axes.set(xlabel='predicted', ylabel='true')
        if len(names) <= WITH_NUMBERS:
            for i, j in np.argwhere(counts):
                colour = 'white' if share[i, j] > 0.6 else 'black'
                text = f'{100 * share[i, j]:.0f}' if share[i, j] >= 0.005 else '·'
                axes.text(j, i, text, ha='center', va='center', color=colour, fontsize=9)
        return _svg(figure, least=0.8)


def _svg(figure: Figure, least: float = 0) -> str:
    """From its <svg> on, as wide as the page allows, up to the width that it was drawn for, and
    not below a part of that.
    """
    file = io.StringIO()
    figure.savefig(file, format='svg')
    text = file.getvalue()
    text = re.sub(r'<metadata>.*?</metadata>', '', text[text.index('<svg') :], flags=re.DOTALL)
    referred = {*re.findall(r'#(\w+)', text)}  # other ids are those of the next chart, too
    text = re.sub(r' id="(.*?)"', lambda x: x[0] if x[1] in referred else '', text)
    width = 96 * figure.get_figwidth()
    style = f'role="img" style="max-width: {width:.0f}px; min-width: {least * width:.0f}px"'
    return re.sub(r'width="[^"]*" height="[^"]*"', style, text, count=1)
