r"""Kill trainings at random moments, resume them, and compare the weights at their end with those
of a training that was never killed: with SafeCheckpointHook, and with mmengine alone.

    python tools/survive.py --kills 30
    python tools/survive.py --kills 3 --inside 1 --two 1 --hooks safe --out work_dirs/survive

A training is a segmentor of configs/demo on made images, with flips, drop path and EMA, for 16
iterations of which every fourth ends with a checkpoint. Every process of it is killed with
SIGKILL. A kill "inside a save" comes at a random moment after a file has begun to change.
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import torch
from make_demo_data import make_demo_data

TOOLS = Path(__file__).resolve().parent
ROOT = TOOLS.parent
CONFIG = ROOT / 'configs/demo/shift_gmlp_upernet.py'
EPOCHS, ITERATIONS = 4, 16
OPTIONS = {
    'train_dataloader.dataset.indices': 16,
    'val_dataloader.dataset.indices': 8,
    'train_cfg.max_epochs': EPOCHS,
    'train_cfg.val_interval': 2,
    'model.backbone.drop_path_rate': 0.1,
    'default_hooks.checkpoint.interval': 1,
    'default_hooks.checkpoint.max_keep_ckpts': 1,
    'default_hooks.logger.interval': 1,
    'randomness.diff_rank_seed': True,
}
HOOKS = dict(
    safe={'default_hooks.checkpoint.resume_interval': 3},
    mmengine={'default_hooks.checkpoint.type': 'CheckpointHook'},
)
# How a resumed run ends.
EQUAL, OTHER, AGAIN, REFUSED = (
    'equal, bit for bit',
    'other weights',
    'began again at 0',
    'cannot go on',
)
INSIDE = 0.08  # seconds: the kill comes within them after a save has begun


def command(hook: str, ranks: int, folder: Path, data: Path, resume: bool) -> list[str]:
    options = dict(OPTIONS, **HOOKS[hook], data_root=data)
    options['train_dataloader.batch_size'] = 4 // ranks
    tool = TOOLS / ('train.py' if hook == 'safe' else 'survive.py')
    start = [sys.executable]
    if ranks > 1:
        port = random.SystemRandom().randrange(20000, 30000)
        start += ['-m', 'torch.distributed.run', f'--nproc_per_node={ranks}']
        start += ['--master_addr=127.0.0.1', f'--master_port={port}']
    start += [str(tool), str(CONFIG), '--ema', '--work-dir', str(folder)]
    start += ['--launcher', 'pytorch'] * (ranks > 1) + ['--resume'] * resume
    return [*start, '--cfg-options', *(f'{key}={value}' for key, value in options.items())]


class Training:
    """A run in processes of its own; ``log`` is what it says."""

    def __init__(self, hook: str, ranks: int, folder: Path, data: Path, resume: bool = False):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.log = folder, folder / f'log_{time.time_ns()}.txt'
        environment = dict(os.environ, OMP_NUM_THREADS='1', MKL_NUM_THREADS='1')
        with open(self.log, 'w') as log:
            self.process = subprocess.Popen(
                command(hook, ranks, folder, data, resume), stdout=log, stderr=log, env=environment
            )

    def says(self, text: str) -> bool:
        return text in self.log.read_text(errors='replace')

    def wait_for(self, text: str) -> None:
        while self.process.poll() is None and not self.says(text):
            time.sleep(0.01)

    def wait_for_saves(self, count: int) -> None:
        """Until the ``count``-th save has begun."""
        before = self.state()
        while self.process.poll() is None and count:
            if (now := self.state()) != before:
                count -= 1
                if count:
                    time.sleep(0.3)  # the same save
                    now = self.state()
            before = now

    def state(self) -> set:
        found = set()
        with contextlib.suppress(FileNotFoundError):
            for entry in os.scandir(self.folder):
                if '.pth' in entry.name:
                    info = entry.stat()
                    found.add((entry.name, info.st_ino, info.st_size))
        return found

    def kill(self) -> bool:
        """Kill all its processes; whether it was still at work."""
        at_work = self.process.poll() is None
        for pid in [*descendants(self.process.pid), self.process.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        return at_work


def descendants(pid: int) -> list[int]:
    found = []
    for task in Path(f'/proc/{pid}/task').glob('*/children'):
        with contextlib.suppress(OSError):
            for child in map(int, task.read_text().split()):
                found += [child, *descendants(child)]
    return found


def weights(folder: Path) -> dict[str, torch.Tensor]:
    state = torch.load(folder / f'epoch_{EPOCHS}.pth', map_location='cpu', weights_only=False)
    return {f'{key}.{name}': value.double() for key in ('state_dict', 'ema_state_dict')
            for name, value in state[key].items()}  # fmt: skip


def compare(folder: Path, expected: dict[str, torch.Tensor]) -> float:
    """The L2 distance of the final weights, relative to that of the expected ones from 0."""
    found = weights(folder)
    squares = [((found[name] - value) ** 2).sum() for name, value in expected.items()]
    return float((sum(squares) / sum((x**2).sum() for x in expected.values())) ** 0.5)


def one_kill(hook: str, ranks: int, inside: bool, draw: random.Random, context: dict) -> dict:
    folder, data = context['folder'] / 'killed', context['data']
    shutil.rmtree(folder, ignore_errors=True)
    run = Training(hook, ranks, folder, data)
    run.wait_for('Epoch(train)')
    if inside:
        run.wait_for_saves(draw.randrange(1, 5))
        time.sleep(draw.uniform(0, INSIDE))
    else:
        time.sleep(draw.uniform(0, context['seconds']))
    if not run.kill():
        if run.process.returncode != 0:
            raise RuntimeError(f'the training failed: see {run.log}')
        # it was faster than the one before
        return one_kill(hook, ranks, inside, draw, context)
    files = sorted(path.name for path in folder.glob('*.pth'))
    saved = run.says('Saving checkpoint at 1 epochs') and run.says('Epoch(train) [2]')
    resumed = Training(hook, ranks, folder, data, resume=True)
    code = resumed.process.wait()
    row = dict(hook=hook, ranks=ranks, inside=inside, files=files)
    if code != 0:
        lines = resumed.log.read_text(errors='replace').splitlines()
        reasons = [line for line in lines if 'Error: ' in line or line.startswith('train.py: ')]
        return dict(row, result=REFUSED, reason=reasons[0] if reasons else lines[-1])
    distance = compare(folder, context['weights'])
    if distance == 0:
        return dict(row, result=EQUAL, distance=0.0)
    again = saved and not resumed.says('resumed epoch')
    return dict(row, result=AGAIN if again else OTHER, distance=distance)


def uninterrupted(hook: str, ranks: int, folder: Path, data: Path) -> dict:
    run = Training(hook, ranks, folder / 'whole', data)
    run.wait_for('Epoch(train)')
    begin = time.monotonic()
    if run.process.wait() != 0:
        raise RuntimeError(f'the training failed: see {run.log}')
    seconds = 0.8 * (time.monotonic() - begin)  # its end is not training
    found = weights(folder / 'whole')
    return dict(folder=folder, data=data, seconds=seconds, weights=found)


def table(rows: list[dict]) -> str:
    """Counts by hook, number of processes, and moment, in Markdown."""
    results = (EQUAL, OTHER, AGAIN, REFUSED)
    lines = [f'| checkpoints by | processes | killed | kills | {" | ".join(results)} |']
    lines.append('|---|---|---|' + '---:|' * (1 + len(results)))
    names = dict(safe='`SafeCheckpointHook`', mmengine='mmengine alone')
    for hook, name in names.items():
        for ranks in (1, 2):
            for inside in (False, True):
                key = (hook, ranks, inside)
                found = Counter(x['result'] for x in rows
                                if (x['hook'], x['ranks'], x['inside']) == key)  # fmt: skip
                if found:
                    moment = 'inside a save' if inside else 'at any moment'
                    cells = [name, ranks, moment, found.total(), *(found[x] for x in results)]
                    lines.append('| ' + ' | '.join(map(str, cells)) + ' |')
    return '\n'.join(lines)


def train_with_mmengine() -> None:
    """What a plain train.py does: mmengine's hook, and its way to resume."""
    from mmengine.runner import Runner

    from mlp_backbones.engine import flags, launch

    parser = launch.argument_parser('')
    parser.add_argument('--ema', action='store_true')
    parser.add_argument('--resume', action='store_true')
    args = launch.parse_args(parser)
    cfg = launch.config_from_args(args)
    flags.enable_ema(cfg)
    cfg.default_hooks.checkpoint.pop('resume_interval', None)
    for name in ('finite', 'bad_data'):
        cfg.default_hooks.pop(name)
    cfg.resume = args.resume
    launch.prepare_launcher(cfg)
    Runner.from_cfg(cfg).train()
    launch.leave_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--kills', type=int, default=30, help='for each hook')
    parser.add_argument('--inside', type=int, default=10, help='of them, inside a save')
    parser.add_argument('--two', type=int, default=10, help='of them, with two processes')
    parser.add_argument('--hooks', nargs='+', choices=HOOKS, default=list(HOOKS))
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--out', type=Path, default=Path('work_dirs/survive'))
    args = parser.parse_args()
    if not 0 <= max(args.inside, args.two) <= args.kills:
        parser.error(f'--inside and --two are parts of --kills {args.kills}')
    args.out = args.out.resolve()
    data = args.out / 'data'
    if not data.exists():
        make_demo_data(str(data), 16, 8, 128, 0)
    rows = []
    for hook in args.hooks:
        draw = random.Random(args.seed)  # the same moments for each hook
        kinds = [(2 if i % args.kills < args.two else 1) for i in range(args.kills)]
        moments = [i < args.inside for i in range(args.kills)]
        draw.shuffle(kinds)
        contexts = {}
        for ranks, inside in sorted(zip(kinds, moments, strict=True)):
            if ranks not in contexts:
                folder = args.out / f'{hook}_{ranks}'
                shutil.rmtree(folder, ignore_errors=True)
                contexts[ranks] = uninterrupted(hook, ranks, folder, data)
            rows.append(one_kill(hook, ranks, inside, draw, contexts[ranks]))
            row = rows[-1]
            where = 'inside a save' if inside else 'at any moment'
            more = f', L2 {row["distance"]:.1%}' if row.get('distance') else row.get('reason', '')
            print(f'{len(rows)}: {hook}, {ranks}, {where}: {row["result"]} {more}', flush=True)
            (args.out / 'kills.json').write_text(json.dumps(rows, indent=1))
    print(f'\n{table(rows)}')
    failed = [row for row in rows if row['hook'] == 'safe' and row['result'] != EQUAL]
    if failed:
        sys.exit(f'survive.py: {len(failed)} kills were not survived: see {args.out}/kills.json')


if __name__ == '__main__':
    if '--kills' not in sys.argv and '--work-dir' in sys.argv:
        train_with_mmengine()
    else:
        main()
