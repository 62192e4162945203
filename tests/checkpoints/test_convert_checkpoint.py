"""tools/convert_checkpoint.py as a user calls it."""

import os
import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from layouts import google_mixer
from reference import import_timm

from mlp_backbones.checkpoints import knows_stand_ins, read_weights
from mlp_backbones.models import PlainMLPMixer

TOOL = str(Path(__file__).resolve().parents[2] / 'tools/convert_checkpoint.py')
SMALL = dict(embed_dims=16, num_layers=2, patch_size=16)
BUILD = ['--backbone', 'PlainMLPMixer', '--arch', str(SMALL)]


@pytest.fixture
def convert(monkeypatch, capsys):
    """Run the tool; return its output and warnings, and the message of a failure."""

    def run(*arguments):
        monkeypatch.setattr(sys, 'argv', ['convert_checkpoint.py', *map(str, arguments)])
        try:
            runpy.run_path(TOOL, run_name='__main__')
        except SystemExit as end:
            return ''.join(capsys.readouterr()), end.code
        return ''.join(capsys.readouterr()), None

    return run


@pytest.fixture(scope='module')
def mixer():
    """timm's weights of a small Mixer for 224 x 224."""
    torch.manual_seed(0)
    model = import_timm().models.MlpMixer(patch_size=16, num_blocks=2, embed_dim=16, num_classes=7)
    return model.state_dict()


@pytest.fixture
def src(mixer, tmp_path):
    torch.save(mixer, tmp_path / 'mixer.pth')
    return tmp_path / 'mixer.pth'


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
def test_the_report_and_the_file(src, suffix, convert, tmp_path):
    dst = tmp_path / f'new/folder/ours{suffix}'
    out, _ = convert(src, dst, *BUILD, '--pretrain-img-size', '384')
    assert out.splitlines() == [
        'source    PlainMLPMixer (width 16, 2 layers, patch 16) (timm)',
        'backbone  PlainMLPMixer (width 16, 2 layers, patch 16)',
        'used      28 weights',
        'resized   6 of them, from a grid of 14 x 14 to 24 x 24',
        'left out  2 (classifier): head.weight, head.bias',
        'missing   none',
        f'written   {dst}',
    ]
    model = PlainMLPMixer(SMALL, pretrain_img_size=384)
    model.load_state_dict(read_weights(str(dst)))


def test_the_same_grid_comes_back_bit_equal(src, mixer, convert, tmp_path):
    first, second, third = (tmp_path / f'{i}.pth' for i in range(3))
    convert(src, first, *BUILD)
    convert(first, second, *BUILD)
    a, b = read_weights(str(first)), read_weights(str(second))
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert torch.equal(a['layers.1.mixer.f.fc2.bias'], mixer['blocks.1.mlp_tokens.fc2.bias'])
    # google's layout of the same weights gives the same file
    np.savez(tmp_path / 'google.npz', **google_mixer(mixer))
    out, _ = convert(tmp_path / 'google.npz', third, *BUILD)
    assert '(google)' in out
    c = read_weights(str(third))
    assert all(torch.equal(a[key], c[key]) for key in a)


def test_a_config_says_which_backbone(src, convert, tmp_path):
    config = tmp_path / 'config.py'
    config.write_text(
        f"model = dict(backbone=dict(type='mlp_backbones.PlainMLPMixer', arch={SMALL}, "
        "pretrain_img_size=96, init_cfg=dict(type='Pretrained', checkpoint='nowhere')))"
    )
    out, _ = convert(src, tmp_path / 'x.pth', '--config', config)
    assert 'from a grid of 14 x 14 to 6 x 6' in out
    config.write_text("model = dict(backbone=dict(type='ResNet'))")
    _, error = convert(src, tmp_path / 'y.pth', '--config', config)
    assert 'config.py: model.backbone ResNet is not one of ConvMLP, GMLP, ' in error
    config.write_text('x = 1')
    _, error = convert(src, tmp_path / 'y.pth', '--config', config)
    assert 'config.py has no model.backbone' in error
    assert not (tmp_path / 'y.pth').exists()


def test_without_a_backbone_it_is_the_published_one(convert, tmp_path):
    state = import_timm().create_model('deit_tiny_patch16_224', img_size=64).state_dict()
    torch.save(dict(model=state), tmp_path / 'deit.pth')
    out, _ = convert(tmp_path / 'deit.pth', tmp_path / 'x.pth')
    assert 'backbone  PlainViT ti\n' in out and 'resized' not in out
    weights = read_weights(str(tmp_path / 'x.pth'))
    assert torch.equal(weights['pos_embed.weight'], state['pos_embed'][0])


class Code:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def spoil(state, kind, folder):
    if kind == 'half':
        return {key: value for i, (key, value) in enumerate(state.items()) if i % 2}
    if kind == 'code':
        return dict(state_dict=state, extra=Code(folder / 'it_ran'))
    return state


@pytest.mark.parametrize(
    'kind, arguments, message',
    [
        (
            'good',
            [],
            'PlainMLPMixer .* no preset has these sizes, so say which backbone',
        ),
        ('good', ['--backbone', 'PlainGMLP', '--arch', 's16'], 'the backbone is PlainGMLP s16'),
        ('good', ['--backbone', 'PlainMLPMixer', '--arch', 'b16'], 'the checkpoint has shape'),
        ('good', ['--backbone', 'PlainMLPMixer'], '--backbone PlainMLPMixer needs --arch: s32'),
        ('good', ['--backbone', 'PlainMLPMixer', '--arch', 'b61'], 'did you mean b16'),
        ('good', ['--backbone', 'Mixer'], '--backbone Mixer is not one of ConvMLP, GMLP, '),
        ('good', ['--arch', 'b16'], '--arch and --pretrain-img-size belong to --backbone'),
        ('good', [*BUILD, '--prefix', 'neck'], "starts with prefix='neck.'"),
        ('half', BUILD, 'lacks 14 of the 28 weights'),
        pytest.param(
            'code',
            BUILD,
            r'objects other than weights .*nothing in it was run',
            marks=pytest.mark.skipif(not knows_stand_ins(), reason='torch before 2.6 says less'),
        ),
        ('cut', BUILD, 'was cut off'),
    ],
)
def test_bad_input_ends_with_one_message_and_no_file(
    kind, arguments, message, mixer, convert, tmp_path
):
    src, dst = tmp_path / 'src.pth', tmp_path / 'dst.pth'
    torch.save(spoil(mixer, kind, tmp_path), src)
    if kind == 'cut':
        src.write_bytes(src.read_bytes()[:-1000])
    dst.write_text('what was there')
    out, error = convert(src, dst, *arguments)
    assert error.startswith('convert_checkpoint.py: ') and '\n' not in error and out == ''
    assert re.search(message, error), error
    assert dst.read_text() == 'what was there'
    assert sorted(path.name for path in tmp_path.iterdir()) == ['dst.pth', 'src.pth']


@pytest.mark.parametrize(
    'src, dst, message',
    [
        ('nowhere.pth', 'x.pth', 'nowhere.pth does not exist'),
        ('http://127.0.0.1:1/x.pth', 'x.pth', 'cannot be fetched'),
        ('nowhere.pth', 'x.bin', 'x.bin must end in .pth or .safetensors'),
    ],
)
def test_bad_paths(src, dst, message, convert, tmp_path):
    _, error = convert(src, tmp_path / dst)
    assert re.search(message, error), error


def test_nan_is_refused(mixer, convert, tmp_path):
    torch.save({**mixer, 'norm.bias': mixer['norm.bias'] * float('nan')}, tmp_path / 'nan.pth')
    _, error = convert(tmp_path / 'nan.pth', tmp_path / 'x.pth', *BUILD)
    assert '1 weights hold NaN or infinite values: norm.bias' in error
    assert not (tmp_path / 'x.pth').exists()
