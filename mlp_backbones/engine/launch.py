"""What ``tools/train.py`` and ``tools/test.py`` share.

From a command line to a config that mmengine's Runner can run: everything that
a user can get wrong is checked here, before a model is built, and raises
ValueError, FileNotFoundError or ImportError with what was given, what is
expected and what to do.
"""

import argparse
import difflib
import inspect
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from mmengine.config import Config, DictAction
from mmengine.device import get_device
from mmengine.logging import print_log
from mmengine.runner import Runner, find_latest_checkpoint

from mlp_backbones.checkpoints import (
    CheckpointError,
    find_weights,
    knows_stand_ins,
    read_checkpoint,
    refuse_not_finite,
    resolve,
    safe_loading,
)
from mlp_backbones.config_scope import config_path
from mlp_backbones.environment import require
from mlp_backbones.models.backbones.base import is_pretrained

from .checkpoint_fit import CheckpointFitHook

# The settings of a config that hold paths below its data_root.
DATA_SECTIONS = (
    'train_dataloader',
    'val_dataloader',
    'test_dataloader',
    'val_evaluator',
    'test_evaluator',
)


# The settings that a config may have at its top.
RUNNER = {*inspect.signature(Runner.__init__).parameters, 'auto_scale_lr', 'tta_model'}
RUNNER |= {'tta_pipeline', 'find_unused_parameters', 'sync_bn', 'model_wrapper_cfg', 'compile'}


class _CfgOptions(DictAction):
    """mmengine's DictAction, for which ``--cfg-options a`` is a traceback."""

    def __call__(self, parser, namespace, values, option_string=None):
        for value in values:
            if '=' not in value:
                raise argparse.ArgumentError(self, f'{value!r} is no KEY=VALUE')
        super().__call__(parser, namespace, values, option_string)


def argument_parser(description: str) -> argparse.ArgumentParser:
    """A parser with the arguments that every tool takes."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument('config', help='config file')
    parser.add_argument(
        '--work-dir',
        help="folder for logs and checkpoints (default: the config's "
        'work_dir, else ./work_dirs/<name of the config>)',
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=_CfgOptions,
        metavar='KEY=VALUE',
        help='change settings of the config, as in data_root=/data/coco '
        'train_dataloader.batch_size=4 "param_scheduler.0.end=100"; lists are '
        'key="[a,b]" or key=a,b, without spaces',
    )
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm', 'mpi'],
        default='none',
        help='what started the processes of a distributed run',
    )
    # torch.distributed.launch passes it; torchrun sets LOCAL_RANK instead.
    parser.add_argument(
        '--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS
    )
    return parser


def parse_args(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Parse the command line, and leave LOCAL_RANK where mmengine reads it."""
    args = parser.parse_args()
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    return args


def config_from_args(args: argparse.Namespace) -> Config:
    """The config with everything in it that all tools' arguments set."""
    cfg = load_config(args.config, args.cfg_options)
    cfg.launcher = args.launcher
    # Priority: command line, config, name of the config.
    cfg.work_dir = (
        args.work_dir or cfg.get('work_dir') or os.path.join('work_dirs', Path(args.config).stem)
    )
    return cfg


def load_config(path: str, options: dict[str, Any] | None = None) -> Config:
    """Read a config, apply ``--cfg-options``, and check that its codebase
    (mmdet, mmseg, ...) is installed. ``mlp_backbones::NAME`` is one of this package.

    Raises:
        FileNotFoundError: there is no such file, or a base of it is missing.
        ValueError: it is no Python file, or the options do not fit it.
        ImportError: it needs a package that is not installed.
    """
    scope, _, name = str(path).partition('::')
    if scope == 'mlp_backbones' and name:
        path = config_path(name)
    if not os.path.isfile(path):
        raise FileNotFoundError(f'there is no config file {path}{_did_you_mean(path, ".py")}')
    try:
        cfg = Config.fromfile(path)
    except SyntaxError as error:
        raise ValueError(str(error)) from error
    scope = cfg.get('default_scope', 'mmengine')
    if scope in ('mmdet', 'mmseg'):
        require(scope)
    if options:
        apply_options(cfg, options)
    return cfg


def _did_you_mean(path: str, suffix: str) -> str:
    """``; did you mean ...?`` with files of like names near ``path``."""
    folder = Path(path).parent
    names = {file.name: file for file in folder.glob(f'*{suffix}')}
    if not names and not Path(path).is_absolute():
        # A wrong folder: look below the nearest one that exists, not deep.
        while not folder.is_dir():
            folder = folder.parent
        names = {
            file.name: file
            for pattern in ('*', '*/*', '*/*/*')
            for file in folder.glob(pattern + suffix)
        }
    close = difflib.get_close_matches(Path(path).name, names, n=3, cutoff=0.7)
    if not close:
        return ''
    return f'; did you mean {" or ".join(str(names[name]) for name in close)}?'


def apply_options(cfg: Config, options: dict[str, Any]) -> None:
    """Merge ``--cfg-options`` into ``cfg``.

    ``data_root`` moves every data set, which a plain merge does not: a config
    copies that variable into its data sets when it is read. Longer names, such
    as ``val_dataloader.dataset.data_root``, are merged after it and win.
    """
    if 'data_root' in options:
        old, new = cfg.get('data_root'), options['data_root']
        if not isinstance(new, str):
            raise ValueError(f'data_root={new!r} is no path')
        if not old:
            raise ValueError(
                f'data_root={new} was given, but {cfg.filename} has no '
                'top-level data_root that it could replace; set '
                'train_dataloader.dataset.data_root and the like instead'
            )
        for section in DATA_SECTIONS:
            if section in cfg:
                cfg[section] = move_data_root(cfg[section], old, new)
    for key in options:
        _check_key(cfg, key)
    try:
        cfg.merge_from_dict(options)
    except (AttributeError, KeyError, TypeError) as error:
        given = ' '.join(f'{key}={value}' for key, value in options.items())
        raise ValueError(f'--cfg-options {given} does not fit {cfg.filename}: {error}') from error


def _check_key(cfg: Config, key: str) -> None:
    """Raise ValueError if a setting looks like a misspelling of one that there is, or nothing
    reads a top-level one of that name.
    """
    node, path = cfg._cfg_dict, []
    for part in key.split('.'):
        if not isinstance(node, dict):
            return  # an index into a list
        if part not in node:
            known = {*node, *RUNNER} if not path else set(node)
            close = difflib.get_close_matches(part, known - {part}, n=1, cutoff=0.85)
            if part in known or path and not close:
                return
            hint = f'; did you mean {".".join([*path, *close])}?' if close else ''
            raise ValueError(
                f'--cfg-options {key}: the config has no {".".join([*path, part])}{hint}'
            )
        node = node[part]
        path.append(part)


def move_data_root(node: Any, old: str, new: str) -> Any:
    """A copy of a piece of config with every path at or below ``old`` moved
    to the same place at or below ``new``; nothing else changes."""
    if isinstance(node, dict):
        return type(node)({key: move_data_root(value, old, new) for key, value in node.items()})
    if isinstance(node, (list, tuple)):
        return type(node)(move_data_root(value, old, new) for value in node)
    if isinstance(node, str):
        below = node.removeprefix(old.rstrip('/'))
        if node.startswith(old.rstrip('/')) and below[:1] in ('', '/'):
            return new.rstrip('/') + below or '/'
    return node


def check_data(cfg: Config, loops: Sequence[str]) -> None:
    """Raise FileNotFoundError if data of the loops ('train', 'val', 'test')
    is not there, with each path and the setting that names it."""
    problems = [problem for loop in loops for problem in _missing_data(cfg, loop)]
    if not problems:
        return
    lines = ['the data set is not there:', *(f'  {line}' for line in problems)]
    if cfg.get('data_root'):
        lines.append(
            'Say where it is with --cfg-options data_root=FOLDER (now '
            f'{cfg.data_root}), which moves all of its parts.'
        )
    lines.append(
        'How to get it and what its folder holds: see README.md and docs/training.md#data.'
    )
    raise FileNotFoundError('\n'.join(lines))


def _missing_data(cfg: Config, loop: str) -> Iterator[str]:
    # mmengine runs a loop only if both are there.
    dataloader = cfg.get(f'{loop}_dataloader')
    if not isinstance(dataloader, dict) or cfg.get(f'{loop}_cfg') is None:
        return
    yield from _missing_in_dataset(dataloader.get('dataset'), f'{loop}_dataloader.dataset')
    evaluators = cfg.get(f'{loop}_evaluator')
    is_list = isinstance(evaluators, (list, tuple))
    for i, evaluator in enumerate(evaluators if is_list else [evaluators]):
        if isinstance(evaluator, dict) and not evaluator.get('backend_args'):
            index = f'.{i}' if is_list else ''
            yield from _missing_path(
                evaluator.get('ann_file'), f'{loop}_evaluator{index}.ann_file'
            )


def _missing_in_dataset(dataset: Any, setting: str) -> Iterator[str]:
    # With backend_args the paths may be mapped to another storage.
    if not isinstance(dataset, dict) or dataset.get('backend_args'):
        return
    if 'dataset' in dataset:  # RepeatDataset, ClassBalancedDataset, ...
        yield from _missing_in_dataset(dataset['dataset'], f'{setting}.dataset')
    for i, part in enumerate(dataset.get('datasets', [])):  # ConcatDataset
        yield from _missing_in_dataset(part, f'{setting}.datasets.{i}')

    root = dataset.get('data_root') or ''
    problems = list(_missing_path(root, f'{setting}.data_root'))
    if not problems:
        if dataset.get('ann_file'):
            problems += _missing_path(_join(root, dataset['ann_file']), f'{setting}.ann_file')
        for key, folder in (dataset.get('data_prefix') or {}).items():
            problems += _missing_path(_join(root, folder), f'{setting}.data_prefix.{key}')
    yield from problems


def _join(root: str, path: Any) -> Any:
    if not isinstance(path, str) or '://' in path:
        return path
    return os.path.join(root, path)


def _missing_path(path: Any, setting: str) -> Iterator[str]:
    # Nothing to see from here: no setting, or a path such as s3://...
    if not isinstance(path, str) or not path or '://' in path:
        return
    if not os.path.exists(path):
        yield f'{path} does not exist ({setting})'
    elif os.path.isdir(path) and not any(os.scandir(path)):
        yield f'{path} is empty ({setting})'


def check_checkpoint(path: str, setting: str, resume: bool = False) -> None:
    """Raise an error if the model (or, to ``resume``, the whole training state) cannot be
    loaded from ``path``, which ``setting`` names.

    Raises:
        FileNotFoundError: there is no such file.
        ConnectionError: the address cannot be reached.
        ImportError: safetensors is not installed.
        CheckpointError: it is no checkpoint, see :func:`read_checkpoint`, or no training state.
    """
    if '://' not in path and not os.path.isfile(path):
        raise FileNotFoundError(
            f'{setting}: there is no checkpoint {path}{_did_you_mean(path, ".pth")}'
        )
    if not knows_stand_ins():
        return  # mmengine reads it, see safe_loading
    local_rank = os.environ.get('SLURM_LOCALID') or os.environ.get('LOCAL_RANK') or '0'
    if '://' in path and local_rank != '0':
        return  # the first process of each machine fetches it
    try:
        content = read_checkpoint(resolve(path))
    except (ImportError, OSError, ValueError) as error:
        raise type(error)(f'{setting}: {error}') from error
    needed = {'state_dict', 'meta', 'message_hub', 'optimizer'}
    missing = sorted(needed - content.keys())
    if resume and missing:
        raise CheckpointError(
            f'{setting}: {path} is no training state: it has no '
            f'{", ".join(missing)}; to start from its weights, use '
            f'--cfg-options load_from={path} instead'
        )
    refuse_not_finite(find_weights(content), f'{setting}: {path}')


def check_start(cfg: Config) -> None:
    """Check the checkpoints that a training run starts or goes on from."""
    for setting, path in pretrained(cfg.get('model'), 'model'):
        check_checkpoint(path, setting)
    if cfg.get('load_from'):
        setting = '--resume' if cfg.get('resume') else 'load_from'
        check_checkpoint(cfg.load_from, setting, resume=bool(cfg.get('resume')))
    elif cfg.get('resume'):
        latest = find_latest_checkpoint(cfg.work_dir)
        # None: mmengine starts from the beginning, so that a job that may be
        # stopped at any time can always be started with --resume.
        if latest is not None:
            check_checkpoint(latest, f'--resume, from {cfg.work_dir}/last_checkpoint', resume=True)


def pretrained(node: Any, setting: str) -> Iterator[tuple[str, str]]:
    """Every checkpoint that an ``init_cfg`` in a piece of config names, with its setting."""
    if isinstance(node, dict):
        if 'type' in node and is_pretrained(node) and node.get('checkpoint'):
            yield setting, node['checkpoint']
        if isinstance(node.get('pretrained'), str):
            yield f'{setting}.pretrained', node['pretrained']
        for key, value in node.items():
            yield from pretrained(value, f'{setting}.{key}')
    elif isinstance(node, (list, tuple)):
        for i, value in enumerate(node):
            yield from pretrained(value, f'{setting}.{i}')


def enable_amp(cfg: Config) -> None:
    """``--amp``: train in float16 with a dynamic loss scale."""
    kind = cfg.get('optim_wrapper', {}).get('type', 'OptimWrapper')
    if kind == 'AmpOptimWrapper':
        return
    if kind != 'OptimWrapper':
        raise ValueError(
            f'--amp changes an optim_wrapper of type OptimWrapper; the config has {kind}'
        )
    cfg.optim_wrapper.type = 'AmpOptimWrapper'
    cfg.optim_wrapper.loss_scale = 'dynamic'


def check_amp(cfg: Config) -> None:
    """mmengine's AmpOptimWrapper needs a GPU, and mmcv's RoIAlign knows no
    bfloat16 on the CPU, where it would not be faster either."""
    kind = cfg.get('optim_wrapper', {}).get('type')
    if kind == 'AmpOptimWrapper' and get_device() in ('cpu', 'mps'):
        raise ValueError(
            'mixed precision (--amp, or optim_wrapper.type=AmpOptimWrapper) '
            f'needs a GPU, and torch {torch.__version__} finds none here; '
            'leave it out to train in float32'
        )


def enable_auto_scale_lr(cfg: Config) -> None:
    """``--auto-scale-lr``: scale the rate with the total batch size."""
    scale = cfg.get('auto_scale_lr')
    if not scale or 'base_batch_size' not in scale:
        raise ValueError(
            f'--auto-scale-lr: {cfg.filename} does not say for which batch '
            'size its learning rate is; add '
            'auto_scale_lr=dict(enable=False, base_batch_size=16) to it'
        )
    cfg.auto_scale_lr.enable = True


def prepare_launcher(cfg: Config) -> None:
    """Make ``--launcher`` work where mmengine's own way fails or says little.

    Without a GPU, mmengine asks for CUDA devices all the same: start the gloo
    group before the Runner is built (which then leaves it alone), wrap the
    model without device ids, and use BN, since SyncBN has no CPU version.
    """
    started_by = dict(
        pytorch=('RANK', 'tools/dist_train.sh or dist_test.sh'),
        slurm=('SLURM_PROCID', 'tools/slurm_train.sh'),
        mpi=('OMPI_COMM_WORLD_LOCAL_RANK', 'mpirun'),
    )
    if cfg.launcher not in started_by:
        return
    variable, tool = started_by[cfg.launcher]
    if variable not in os.environ:
        raise ValueError(
            f'--launcher {cfg.launcher} is for processes that {tool} starts: {variable} is not set'
        )
    device = get_device()
    if device == 'cuda' and cfg.launcher == 'pytorch':
        local_rank, count = int(os.environ['LOCAL_RANK']), torch.cuda.device_count()
        if local_rank >= count:
            raise ValueError(
                f'{local_rank + 1} or more processes on a machine '
                f'with {count} GPU(s): start at most one per GPU'
            )
    if device != 'cpu':
        return
    if cfg.launcher != 'pytorch':
        raise ValueError(
            f'--launcher {cfg.launcher} needs GPUs, and torch '
            'finds none here; on CPUs use tools/dist_train.sh or '
            'tools/dist_test.sh (--launcher pytorch)'
        )

    dist_cfg = cfg.get('env_cfg', {}).get('dist_cfg', {})
    limit = dist_cfg.get('timeout')
    torch.distributed.init_process_group(
        'gloo', timeout=timedelta(seconds=limit) if limit else None
    )
    if dist_cfg:
        dist_cfg['backend'] = 'gloo'
    cfg.setdefault(
        'model_wrapper_cfg',
        dict(
            type='MMDistributedDataParallel',
            device_ids=None,
            broadcast_buffers=False,
            find_unused_parameters=cfg.get('find_unused_parameters', False),
        ),
    )
    cfg.pop('sync_bn', None)
    cfg.model, count = _sync_bn_to_bn(cfg.model)
    if torch.distributed.get_rank() == 0:
        note = f', {count} SyncBN settings changed to BN' if count else ''
        print_log(
            'No GPU: distributed on CPUs with gloo, '
            f'{torch.distributed.get_world_size()} processes{note}.'
        )


def run(loop: str, make_config: Callable[[argparse.Namespace], Config], args) -> None:
    """Run the loop 'train' or 'test', as tools/train.py or tools/test.py.

    What a user got wrong ends it with one message: a config that ``make_config`` refuses, or a
    checkpoint that cannot be read or does not fit.
    """
    try:
        cfg = make_config(args)
    except (ImportError, OSError, ValueError) as error:
        sys.exit(f'{loop}.py: {error}')
    try:
        with safe_loading():
            runner = Runner.from_cfg(cfg)
            runner.register_hook(CheckpointFitHook(whole=loop == 'test'))
            getattr(runner, loop)()
    except CheckpointError as error:
        sys.exit(f'{loop}.py: {error}')
    leave_process_group()


def leave_process_group() -> None:
    """Close the process group, if there is one, when all work is done.

    torch asks for it; a process that ends with an open group can abort in the clean-up
    of its threads, and torchrun then reports a finished training as failed.
    """
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _sync_bn_to_bn(node: Any) -> tuple[Any, int]:
    """A copy of a model's config with BN for SyncBN, and how many there
    were."""
    if isinstance(node, dict):
        pairs = {key: _sync_bn_to_bn(value) for key, value in node.items()}
        copy = type(node)({key: value for key, (value, _) in pairs.items()})
        count = sum(n for _, n in pairs.values())
        if copy.get('type') in ('SyncBN', 'MMSyncBN'):
            copy['type'] = 'BN'
            count += 1
        return copy, count
    if isinstance(node, (list, tuple)):
        parts = [_sync_bn_to_bn(value) for value in node]
        return type(node)(part for part, _ in parts), sum(n for _, n in parts)
    return node, 0
