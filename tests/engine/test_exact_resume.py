"""A training that was stopped and resumed is equal, bit for bit, to one that never was."""

import pickle
import random
import signal

import numpy as np
import pytest
import torch
import toy_training as toy
from mmengine.dataset import InfiniteSampler
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler

from mlp_backbones.engine.exact_resume import (
    NumberedBatches,
    fetch,
    kept_random_states,
    number_batches,
    random_states,
    set_random_states,
)

KILL, TERM, USR1 = signal.SIGKILL, signal.SIGTERM, signal.SIGUSR1
OFTEN = {'default_hooks.checkpoint.resume_interval': 3}
PERSISTENT = {'train_dataloader.persistent_workers': True}


@pytest.fixture(scope='module')
def uninterrupted(tmp_path_factory):
    done = {}

    def train(**changes):
        key = str(changes)
        if key not in done:
            done[key] = toy.train(tmp_path_factory.mktemp('whole'), **changes)
        return done[key]

    return train


@pytest.mark.parametrize(
    'by_epoch, workers, changes, stops',
    [
        (True, 0, {}, [(6, KILL), (9, KILL)]),
        (True, 2, {}, [(5, TERM), (7, USR1)]),  # amid an epoch, and in its last iteration
        (True, 0, {}, [(8, TERM)]),  # the first of an epoch
        (True, 2, OFTEN, [(7, KILL), (15, KILL)]),
        (True, 1, PERSISTENT, [(10, TERM)]),
        (False, 0, {}, [(7, TERM), (8, TERM), (15, USR1)]),
        (False, 0, OFTEN, [(1, TERM), (8, KILL)]),
        (False, 1, OFTEN, [(11, TERM)]),
    ],
)
def test_stopped_and_resumed_equals_uninterrupted(
    tmp_path, uninterrupted, by_epoch, workers, changes, stops
):
    changes = dict(changes, by_epoch=by_epoch, workers=workers)
    for at, number in stops:
        kill = dict(at=at, number=number)
        code = toy.in_child(toy.train, tmp_path, resume=True, kill=kill, **changes)
        assert code == (-KILL if number == KILL else 75)
    assert toy.equal(toy.train(tmp_path, resume=True, **changes), uninterrupted(**changes))
    assert not (tmp_path / 'resume.pth').exists()
    last = 'epoch_4.pth' if by_epoch else 'iter_16.pth'
    assert (tmp_path / 'last_checkpoint').read_text() == str(tmp_path / last)


@pytest.mark.parametrize('by_epoch', [True, False])
def test_with_mmengines_flexible_runner(tmp_path, uninterrupted, by_epoch):
    """Which writes its own count of iterations into checkpoints, one too many after a best one."""
    changes = {
        'by_epoch': by_epoch,
        'strategy': dict(type='SingleDeviceStrategy'),
        'env_cfg': dict(dist_cfg=dict(backend='gloo')),
        'custom_hooks': [],  # its EMAHook cannot resume with it
    }
    for at in (8, 15):  # the first iteration after an evaluation; the last of all
        kill = dict(at=at, number=TERM)
        assert toy.in_child(toy.train, tmp_path, resume=True, kill=kill, **changes) == 75
    assert toy.equal(toy.train(tmp_path, resume=True, **changes), uninterrupted(**changes))


def test_a_sampler_that_ends_is_begun_again_as_often(tmp_path, uninterrupted):
    changes = {
        'by_epoch': False,
        'train_cfg.max_iters': 7,  # mmengine sleeps for two seconds after each round of 4
        'train_dataloader.sampler.type': 'DefaultSampler',
    }
    assert toy.in_child(toy.train, tmp_path, kill=dict(at=5, number=TERM), **changes) == 75
    assert toy.equal(toy.train(tmp_path, resume=True, **changes), uninterrupted(**changes))


@pytest.mark.parametrize('by_epoch', [True, False])
@pytest.mark.parametrize('number', [KILL, TERM])
def test_a_stop_within_an_evaluation_loses_neither_it_nor_its_best(
    tmp_path, uninterrupted, by_epoch, number
):
    changes = {
        'by_epoch': by_epoch,
        'default_hooks.checkpoint.interval': 100,  # only the evaluation saves
        'default_hooks.checkpoint.save_best': 'acc',
    }
    kill = dict(at=8, number=number, evaluating=True)
    code = toy.in_child(toy.train, tmp_path, kill=kill, **changes)
    assert code == (-KILL if number == KILL else 75)
    assert (tmp_path / 'resume.pth').exists() and not list(tmp_path.glob('best_*'))
    assert toy.equal(toy.train(tmp_path, resume=True, **changes), uninterrupted(**changes))
    whole = tmp_path / 'whole'
    toy.train(whole, **changes)
    (best,), (expected,) = tmp_path.glob('best_*'), whole.glob('best_*')
    assert best.name == expected.name
    a, b = (torch.load(path, weights_only=False)['state_dict'] for path in (best, expected))
    assert toy.equal(a.values(), b.values())


def test_without_a_seed_the_order_of_the_images_goes_on(tmp_path):
    free = {'randomness.seed': None}
    for i, by_epoch in enumerate((True, False)):
        folder = tmp_path / str(i)
        toy.in_child(toy.train, folder, by_epoch=by_epoch, kill=dict(at=5, number=TERM), **free)
        seed = torch.load(folder / 'resume.pth', weights_only=False)['meta']['seed']
        resumed = toy.train(folder, by_epoch=by_epoch, resume=True, **free)
        sampler = torch.load(sorted(folder.glob('[ei]*.pth'))[-1], weights_only=False)
        fixed = {
            'train_dataloader.sampler.seed': sampler['resume_state']['sampler_seed'],
            'randomness.seed': seed,
        }
        whole = toy.train(tmp_path / f'whole{i}', by_epoch=by_epoch, **fixed)
        assert toy.equal(resumed, whole)


def test_accumulated_gradients_are_waited_for(tmp_path, uninterrupted):
    changes = {
        'by_epoch': False,
        'optim_wrapper.accumulative_counts': 4,
        'default_hooks.checkpoint.interval': 16,
    }
    kill = dict(at=5, number=TERM)
    assert toy.in_child(toy.train, tmp_path, kill=kill, **changes) == 75
    assert torch.load(tmp_path / 'resume.pth', weights_only=False)['meta']['iter'] == 8
    assert toy.equal(toy.train(tmp_path, resume=True, **changes), uninterrupted(**changes))


def test_early_stopping_counts_on(tmp_path):
    stopping = dict(
        type='EarlyStoppingHook', monitor='acc', rule='greater', min_delta=1e9, patience=2
    )
    changes = {
        'custom_hooks': [dict(type='EMAHook', momentum=0.1), stopping],
        'train_cfg.val_interval': 1,
        'train_cfg.max_epochs': 9,
    }
    toy.train(tmp_path / 'whole', **changes)
    (last,) = (tmp_path / 'whole').glob('epoch_*.pth')
    toy.train(tmp_path / 'part', **{**changes, 'train_cfg.max_epochs': 2})
    toy.train(tmp_path / 'part', resume=True, **changes)
    assert (tmp_path / 'part' / last.name).exists()


def test_what_makes_a_difference_is_said(tmp_path, caplog):
    toy.train(tmp_path, **{'train_cfg.max_epochs': 1})
    other = {
        'train_dataloader.batch_size': 5,
        'train_dataloader.dataset.indices': 10,
        'optim_wrapper.optimizer.lr': 0.5,
        'log_level': 'WARNING',
    }
    toy.train(tmp_path, resume=True, **other)
    (log,) = sorted(tmp_path.glob('*/*.log'))[-1:]
    text = log.read_text()
    for part in (
        'the batch size, over all processes, was 4, and is 5 now: the result differs',
        'the number of training images was 14, and is 10 now',
        "the learning rate of the config was 0.01, and is 0.5 now; the checkpoint's goes on",
    ):
        assert part in text
    assert 'number of processes' not in text


def test_mmengines_own_checkpoints_are_resumed_with_a_warning(tmp_path):
    plain = {'default_hooks.checkpoint': dict(type='CheckpointHook', _delete_=True)}
    toy.train(tmp_path, **plain, **{'train_cfg.max_epochs': 2})
    toy.train(tmp_path, resume=True, log_level='WARNING')
    (log,) = sorted(tmp_path.glob('*/*.log'))[-1:]
    assert 'not written by mlp_backbones.SafeCheckpointHook' in log.read_text()


def draw():
    return random.random(), random.gauss(0, 1), np.random.rand(), torch.randn(3).tolist()


def test_random_states_come_back():
    draw()
    states = pickle.loads(pickle.dumps(random_states()))
    first = draw()
    set_random_states(states)
    with kept_random_states():
        draw()
    assert draw() == first


def test_samples_depend_on_their_place_alone():
    dataset = toy.Noise()

    def batches(processes, batch_size, workers, seed=1):
        """Of two iterations, in the order of all processes together."""
        places = {}
        for rank in range(processes):
            sampler = BatchSampler(range(rank, 8, processes), batch_size, False)
            loader = DataLoader(
                dataset, batch_sampler=sampler, num_workers=workers, collate_fn=list
            )
            numbered = number_batches(loader, seed)
            numbered.rank, numbered.processes = rank, processes
            for i, batch in enumerate(loader):
                for j, sample in enumerate(batch):
                    places[(i * batch_size + j) * processes + rank] = sample['inputs']
        return [places[place] for place in sorted(places)]

    before = random_states()['torch']
    expected = batches(1, 4, 0)
    assert torch.equal(random_states()['torch'], before)  # the model's numbers are its own
    for other in (batches(1, 4, 2), batches(2, 2, 0), batches(2, 2, 1)):
        assert toy.equal(other, expected)
    assert not toy.equal(batches(1, 4, 0, seed=2), expected)


@pytest.mark.parametrize('size', [4, [2, 4], None])
def test_batch_samplers_of_other_code_bases(size):
    """One for several data sets has several sizes, as mmdet's; another may not say any."""

    class Sampler:
        def __iter__(self):
            return iter([[0, 1], [2, 3, 4, 5]])

        def __len__(self):
            return 2

    if size is not None:
        Sampler.batch_size = size
    places = [list(batch.places) for batch in NumberedBatches(Sampler())]
    assert places == ([[0, 1], [4, 5, 6, 7]] if size else [[0, 1], [1, 2, 3, 4]])


def test_a_data_set_that_loads_whole_batches_still_does():
    class Whole(torch.utils.data.Dataset):
        def __len__(self):
            return 8

        def __getitems__(self, indices):
            return [random.random() for _ in indices]

    loader = DataLoader(Whole(), batch_size=4, collate_fn=list)
    number_batches(loader, 5).start(first=3)
    first = list(loader)
    number_batches(loader, 5).start(first=3)
    assert list(loader) == first and len({*first[0], *first[1]}) == 8
    assert len(fetch(loader.dataset, 5, [1, 2])) == 2


def test_skipping_equals_iterating():
    """Also of samplers that end, and of those that never do."""

    class Restarting(SequentialSampler):
        epoch = 0

        def set_epoch(self, epoch):
            self.epoch = epoch

        def __iter__(self):
            return iter([100 * self.epoch + i for i in range(5)])

    def stream(batches):
        while True:
            yield from batches
            batches.sampler.set_epoch(batches.sampler.epoch + 1)

    def finite():
        return NumberedBatches(BatchSampler(Restarting(range(5)), 2, False))

    def infinite():
        return NumberedBatches(BatchSampler(InfiniteSampler(range(5), seed=1), 2, False))

    whole = stream(finite())
    expected = [next(whole) for _ in range(12)]
    for skip in range(10):
        batches = finite()
        assert batches.start(first=skip, skip=skip) == max(skip - 1, 0) // 3
        got = next(iter(batches), None)
        assert got is None if skip and skip % 3 == 0 else got == expected[skip]
    endless = iter(infinite())
    expected = [next(endless) for _ in range(12)]
    for skip in (0, 1, 5, 11):
        batches = infinite()
        batches.start(first=skip, skip=skip)
        got = next(iter(batches))
        assert got == expected[skip] and got.places == expected[skip].places
