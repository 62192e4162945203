"""NaN and infinity do not reach the weights."""

import pytest
import torch
import toy_training as toy
from mmengine.config import ConfigDict
from mmengine.runner import Runner

from mlp_backbones.engine.finite import FiniteHook, TrainingError, finite, flat, image_files

BROKEN = {'train_dataloader.dataset.broken': [5], 'custom_hooks': []}


def run(work_dir, **changes):
    cfg = toy.config(work_dir, experiment_name=str(work_dir), **changes)
    cfg.default_hooks.finite = ConfigDict(type='mlp_backbones.FiniteHook', **cfg.pop('finite', {}))
    runner = Runner.from_cfg(cfg)
    return runner, runner.train


def test_a_run_stops_before_the_step_and_says_with_which_images(tmp_path):
    runner, train = run(tmp_path, **BROKEN)
    with pytest.raises(TrainingError, match='(?s)the gradients are not finite .loss nan') as error:
        train()
    number = runner.iter + 1
    saved = torch.load(tmp_path / f'not_finite_iter_{number}_rank_0.pth', weights_only=False)
    assert f'iteration {number}: ' in str(error.value)
    assert saved['losses'] == 'loss nan' and len(saved['images']) in (2, 4)
    assert any(x.isnan().any() for x in saved['batch']['inputs'])
    for image in saved['images']:
        assert image in str(error.value)
    assert 'image_5.jpg' in saved['images']
    assert all(parameter.isfinite().all() for parameter in runner.model.parameters())


@pytest.mark.parametrize('clip', [True, False])
def test_steps_are_left_out_and_counted(tmp_path, clip):
    changes = dict(BROKEN, finite=dict(action='skip'), log_level='WARNING')
    if not clip:
        changes['optim_wrapper.clip_grad'] = None
    runner, train = run(tmp_path, **changes)
    train()
    assert all(x.isfinite().all() for x in runner.model.state_dict().values())
    (log,) = tmp_path.glob('*/*.log')
    assert '(4 so far)' in log.read_text()  # once in each epoch
    assert '4 of 16 steps were left out' in log.read_text()
    state = torch.load(tmp_path / 'epoch_4.pth', weights_only=False)
    assert state['message_hub']['runtime_info']['skipped_steps'] == 4
    assert len(list(tmp_path.glob('not_finite_*'))) == 4


def test_a_run_that_only_skips_ends(tmp_path):
    changes = {'train_dataloader.dataset.broken': list(range(14)), 'custom_hooks': []}
    runner, train = run(tmp_path, finite=dict(action='skip', max_skipped=3), **changes)
    with pytest.raises(TrainingError, match='iteration 3: 3 steps in a row'):
        train()


def test_a_run_without_trouble_is_as_without_the_hook(tmp_path):
    expected = toy.train(tmp_path / 'without', custom_hooks=[dict(type='EMAHook', momentum=0.1)])
    hook = dict(type='mlp_backbones.FiniteHook', action='skip')
    hooks = [dict(type='EMAHook', momentum=0.1), hook]
    assert toy.equal(toy.train(tmp_path / 'with', custom_hooks=hooks), expected)


def test_a_loss_that_is_infinite_without_gradients(tmp_path):
    runner, _ = run(tmp_path)
    runner.train()  # whatever the hook needs
    hook = next(hook for hook in runner.hooks if isinstance(hook, FiniteHook))
    hook.before_train(runner)
    hook.before_train_iter(runner, 0, dict(inputs=[], data_samples=[]))
    with pytest.raises(TrainingError, match='the loss is not finite'):
        hook.after_train_iter(runner, 0, outputs=dict(loss=torch.tensor(float('inf'))))


def test_finite():
    ones = [torch.ones(3), torch.ones(()), torch.ones(0), torch.full((9,), 6e4).half()]
    assert finite(ones) and finite([])
    for value in ('nan', 'inf', '-inf'):
        assert not finite([*ones, torch.tensor([1.0, float(value)])])
    assert not finite([torch.tensor([float('inf'), -float('inf')])])
    sparse = torch.sparse_coo_tensor([[0, 0]], [1.0, float('nan')], (3,))
    assert not finite([sparse])


def test_losses_and_images_of_a_batch():
    assert flat([torch.ones(2), torch.tensor(2.0)]) == 3
    assert flat(torch.tensor([1.0, 3.0])) == 2 and flat('text') is None
    sample = type('Sample', (), dict(img_path='a.jpg'))()
    assert image_files(dict(data_samples=[sample, [sample], None])) == ['a.jpg', 'a.jpg']
    assert image_files(None) == image_files(dict(data_samples=torch.ones(2))) == []


def test_the_action_is_known():
    with pytest.raises(ValueError, match='must be one of stop, skip'):
        FiniteHook(action='ignore')
