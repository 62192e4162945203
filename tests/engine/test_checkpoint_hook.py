"""Checkpoints that outlive kills, full disks, damage and moves."""

import os
import random
import resource
import shutil
import signal

import pytest
import torch
import toy_training as toy

from mlp_backbones.checkpoints import CheckpointError
from mlp_backbones.engine import checkpoint_hook
from mlp_backbones.engine.checkpoint_hook import SafeCheckpointHook, check_written
from mlp_backbones.engine.training_start import find_newest

# What changes a folder, one by one: the moments at which a kill differs.
CHANGES = ('fsync', 'replace', 'unlink', 'remove', 'open')


def train_and_die(work_dir, moment, **changes):
    """Train until that many changes of files have been made, then die as by kill -9."""
    left = [moment]

    def dying(call):
        def counted(*args, **kwargs):
            left[0] -= 1
            if left[0] < 0:
                os._exit(9)
            return call(*args, **kwargs)

        return counted

    for name in CHANGES:
        setattr(os, name, dying(getattr(os, name)))
    toy.train(work_dir, **changes)


def iteration(path):
    return torch.load(path, weights_only=False)['meta']['iter']


@pytest.mark.parametrize('by_epoch', [True, False])
def test_a_kill_at_any_moment_of_a_save_leaves_a_whole_checkpoint(tmp_path, by_epoch):
    done = 0
    for moment in range(30, 150, 12):  # nearly all from the first save to the last
        moment += random.Random(moment).randrange(12)
        folder = tmp_path / str(moment)
        code = toy.in_child(train_and_die, folder, moment, by_epoch=by_epoch)
        if code == 0:
            break
        assert code == 9
        newest = find_newest([folder])
        assert newest or done == 0
        if newest:
            assert iteration(newest) >= done
            done = iteration(newest)
        assert len(list(folder.glob('[!b]*.pth'))) <= 2  # max_keep_ckpts=1, and one in work
    assert done >= 12
    toy.train(folder, by_epoch=by_epoch, resume=True)
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    last = 'epoch_4.pth' if by_epoch else 'iter_16.pth'
    assert [x for x in names if not x.endswith('.py')] in (
        [f'best_acc_{best}.pth', last, 'last_checkpoint']
        for best in ('epoch_2', 'epoch_4', 'iter_8', 'iter_16')
    )
    assert (folder / 'last_checkpoint').read_text() == str(folder / last)


def with_limit(size, *args, **kwargs):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    try:
        toy.train(*args, **kwargs)
    except CheckpointError as error:
        assert 'File too large' in str(error) and 'go on with --resume' in str(error)
        os._exit(7)


def test_a_checkpoint_that_cannot_be_written_ends_the_run_and_keeps_those_before(tmp_path):
    short = {'train_cfg.max_epochs': 2}
    toy.train(tmp_path, **short)
    before = (tmp_path / 'epoch_2.pth').read_bytes()
    assert toy.in_child(with_limit, len(before) // 2, tmp_path, resume=True) == 7
    assert (tmp_path / 'epoch_2.pth').read_bytes() == before
    assert not list(tmp_path.glob('.*'))
    assert find_newest([tmp_path]) == str(tmp_path / 'epoch_2.pth')


def test_what_was_not_written_is_noticed(tmp_path):
    path = tmp_path / 'file'
    path.write_bytes(b'abcd')
    check_written(path, b'abcd', chunk=3)
    for other in (b'abcx', b'abcde', b'abc', b''):
        with pytest.raises(OSError, match='differs from what was written'):
            check_written(path, other, chunk=3)


@pytest.fixture
def three(tmp_path):
    """A work dir with epoch_1 to epoch_3."""
    changes = {'train_cfg.max_epochs': 3, 'default_hooks.checkpoint.max_keep_ckpts': 3}
    toy.train(tmp_path / 'run', **changes)
    return tmp_path / 'run'


def test_damaged_checkpoints_are_passed_over(three, caplog):
    newest = three / 'epoch_3.pth'
    whole = newest.read_bytes()
    for damaged in (b'', whole[: len(whole) // 2], whole[:-100], b'<html>' + whole):
        newest.write_bytes(damaged)
        assert find_newest([three]) == str(three / 'epoch_2.pth')
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1  # one bit of a weight: only the checksum tells
    newest.write_bytes(flipped)
    assert find_newest([three]) == str(three / 'epoch_2.pth')
    state = torch.load(three / 'epoch_2.pth', weights_only=False)
    state['state_dict']['layers.0.bias'][0] = float('nan')
    torch.save(state, three / 'epoch_2.pth')
    assert find_newest([three]) == str(three / 'epoch_1.pth')
    (three / 'epoch_1.pth').write_bytes(b'PK')
    with pytest.raises(CheckpointError, match='(?s)no checkpoint .* whole.*epoch_1.*epoch_3'):
        find_newest([three])


def test_the_pointer_may_be_empty_stale_or_gone(three):
    for text in ('', '/nowhere/epoch_3.pth', str(three / 'epoch_1.pth'), None):
        if text is None:
            (three / 'last_checkpoint').unlink()
        else:
            (three / 'last_checkpoint').write_text(text)
        assert find_newest([three]) == str(three / 'epoch_3.pth')


def test_a_moved_work_dir_goes_on_and_leaves_the_old_place_alone(three):
    moved = three.parent / 'moved'
    shutil.copytree(three, moved, copy_function=shutil.copyfile)  # as scp: new times
    state = torch.load(moved / 'epoch_3.pth', weights_only=False)
    state['message_hub']['runtime_info']['best_score'] = -9.0  # so that a new best replaces it
    torch.save(state, moved / 'epoch_3.pth')
    before = sorted(three.iterdir())
    toy.train(moved, resume=True)
    assert (moved / 'epoch_4.pth').exists() and not (moved / 'epoch_1.pth').exists()
    assert len(list(moved.glob('best_*'))) == 1
    assert sorted(three.iterdir()) == before


def test_a_new_run_in_an_old_work_dir_is_the_one_that_goes_on(three):
    state = torch.load(three / 'epoch_1.pth', weights_only=False)
    state['meta']['time'] = '20991231_000000'
    torch.save(state, three / 'epoch_1.pth')
    assert find_newest([three]) == str(three / 'epoch_1.pth')


def test_other_storage_is_written_as_mmengine_does(tmp_path):
    toy.train(tmp_path, **{'default_hooks.checkpoint.backend_args': dict(backend='local')})
    assert find_newest([tmp_path]) == str(tmp_path / 'epoch_4.pth')


def test_a_signal_that_comes_while_the_processes_agree_is_not_lost(monkeypatch):
    hook = SafeCheckpointHook()
    monkeypatch.setattr(checkpoint_hook, 'get_world_size', lambda: 2)
    arrives = lambda number, op: hook._note(signal.SIGTERM, None)  # noqa: E731
    monkeypatch.setattr(checkpoint_hook, 'all_reduce', arrives)
    assert [hook._signalled(), hook._signalled()] == [False, True]
