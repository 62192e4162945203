"""How a process is told to save and leave, and how it says that it has."""

import os
import signal

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)  # of Slurm and spot instances, before they kill
TO_BE_RESUMED = os.EX_TEMPFAIL  # the exit code 75: "invited to retry"
NOTE = 'MLP_BACKBONES_SAVED'  # where tools/torchrun.py looks
# When tools/dist_train.sh began, if torchrun may start the processes again; as mmengine writes
# the time in a checkpoint. torchrun's own TORCHELASTIC_RESTART_COUNT is 0 on machines on which
# no process died.
STARTED = 'MLP_BACKBONES_STARTED'


def note_saved() -> None:
    """Tell tools/torchrun.py, if it runs this process, to end with TO_BE_RESUMED, too."""
    if NOTE in os.environ:
        open(os.environ[NOTE], 'w').close()
