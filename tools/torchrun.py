"""torchrun that can be told to stop; its arguments are torchrun's.

SIGUSR1, which Slurm sends before it kills, stops the workers as SIGTERM does, and if they have
saved and left (see mlp_backbones.SafeCheckpointHook), the exit code is theirs, 75.
"""

import os
import signal
import sys
import tempfile

from torch.distributed import run
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

SECONDS_TO_SAVE = 120


def main() -> None:
    signal.signal(signal.SIGUSR1, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    arguments = sys.argv[1:]
    if '--shutdown-timeout' in run.get_args_parser()._option_string_actions:
        arguments = [f'--shutdown-timeout={SECONDS_TO_SAVE}', *arguments]
    with tempfile.TemporaryDirectory() as folder:
        # mlp_backbones/engine/stopping.py makes this file
        note = os.environ['MLP_BACKBONES_SAVED'] = os.path.join(folder, 'saved')
        try:
            run.main(arguments)
        except (ChildFailedError, SignalException) as error:
            if os.path.exists(note):
                sys.exit(os.EX_TEMPFAIL)
            if isinstance(error, SignalException):
                sys.exit(128 + error.sigval)
            raise


if __name__ == '__main__':
    main()
