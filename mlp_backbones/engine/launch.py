"""What ``tools/train.py`` and ``tools/test.py`` share: from a command line to a Runner at work.

Whatever a user can get wrong raises ValueError, OSError or ImportError before a model is built,
with what was given, what is expected and what to do; :func:`run` makes one line of it.
"""

import argparse
import ctypes
import errno
import os
import signal
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.logging import print_log
from mmengine.model import MMDistributedDataParallel, revert_sync_batchnorm
from mmengine.registry import MODEL_WRAPPERS, RUNNERS
from mmengine.runner import Runner

from mlp_backbones.checkpoints import CheckpointError, safe_loading
from mlp_backbones.config_scope import config_path
from mlp_backbones.environment import require
from mlp_backbones.spelling import did_you_mean_file

from .bad_data import DataError, explain_worker
from .checkpoint_fit import CheckpointFitHook
from .classification import require_mmpretrain
from .finite import TrainingError
from .hanging import LIMITS, HangHook
from .options import CfgOptions, apply_options


def argument_parser(description: str) -> argparse.ArgumentParser:
    """A parser with the arguments that every tool takes."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument('config', help='config file')
    parser.add_argument(
        '--work-dir',
        help="folder for logs and checkpoints (default: the config's "
        'work_dir, else ./work_dirs/<name of the config>)',
    )
    add_cfg_options(parser)
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


def add_cfg_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=CfgOptions,
        metavar='KEY=VALUE',
        help='change settings of the config, as in data_root=/data/coco '
        'train_dataloader.batch_size=4 "param_scheduler.0.end=100"; lists are '
        'key="[a,b]" or key=a,b, without spaces',
    )


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
        raise FileNotFoundError(f'there is no config file {path}{did_you_mean_file(path)}')
    try:
        cfg = Config.fromfile(path)
    except SyntaxError as error:
        raise ValueError(f'{path}, or one of its bases, is not valid Python: {error}') from error
    scope = cfg.get('default_scope', 'mmengine')
    if scope in ('mmdet', 'mmseg'):
        require(scope)
    if scope == 'mmpretrain':
        require_mmpretrain()
    if options:
        apply_options(cfg, options)
    return cfg


@MODEL_WRAPPERS.register_module()
class DistributedOnCPU(MMDistributedDataParallel):
    """mmengine's, without device ids, and with BN for SyncBN, which only GPUs have."""

    def __init__(self, module: torch.nn.Module, device_ids: Any = None, **kwargs):
        kwargs.setdefault('broadcast_buffers', False)
        super().__init__(revert_sync_batchnorm(module), **kwargs)


def prepare_launcher(cfg: Config) -> None:
    """Make ``--launcher`` work where mmengine's own way fails or says little.

    Without a GPU, mmengine asks for CUDA devices all the same: start the gloo group before the
    Runner is built (which then leaves it alone), and wrap the model in DistributedOnCPU.
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
    end_with_parent()
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
            f'--launcher {cfg.launcher} needs GPUs, and torch finds none here; on CPUs use '
            'tools/dist_train.sh or tools/dist_test.sh (--launcher pytorch)'
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
        dict(find_unused_parameters=cfg.get('find_unused_parameters', False)),
    )
    kind = cfg.model_wrapper_cfg.setdefault('type', 'MMDistributedDataParallel')
    if kind == 'MMDistributedDataParallel':
        cfg.model_wrapper_cfg.type = 'DistributedOnCPU'
    if torch.distributed.get_rank() == 0:
        count = torch.distributed.get_world_size()
        print_log(f'No GPU: distributed on CPUs with gloo, {count} processes, BN for SyncBN.')


def end_with_parent() -> None:
    """Let the system send SIGTERM to this process when the one that started it is killed; without
    torchrun, its workers would train on.
    """
    if sys.platform == 'linux':
        PR_SET_PDEATHSIG = 1
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def hang_hook(cfg: Config) -> HangHook:
    """Ends a run that hangs, before torch's own limit."""
    dist_cfg = cfg.get('env_cfg', {}).get('dist_cfg', {})
    backend = torch.distributed.get_backend()
    limit = dist_cfg.get('timeout') or LIMITS.get(backend, 600)
    return HangHook(max(0.8 * limit, limit - 60))


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
            runner = RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
            runner.register_hook(CheckpointFitHook(whole=loop == 'test'))
            if torch.distributed.is_initialized():
                runner.register_hook(hang_hook(cfg))
            getattr(runner, loop)()
    except (CheckpointError, TrainingError) as error:
        sys.exit(f'{loop}.py: {error}')
    except DataError as error:
        # from a worker it comes with the traceback there
        sys.exit(f'{loop}.py: {str(error).rpartition("DataError: ")[2].strip()}')
    except (RuntimeError, OSError, EOFError) as error:
        reason = explain_worker(error)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            reason = f'{error}: make room, and go on with --resume; the checkpoints are whole.'
        if reason is None:
            raise
        sys.exit(f'{loop}.py: {reason}')
    except SystemExit:  # after a signal: see SafeCheckpointHook
        leave_process_group()
        raise
    leave_process_group()


def leave_process_group() -> None:
    """Close the process group, if there is one, when all work is done.

    torch asks for it; a process that ends with an open group can abort in the clean-up
    of its threads, and torchrun then reports a finished training as failed.
    """
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
