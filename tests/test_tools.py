"""The tools as a user calls them, and the configs that they read."""

import json
import os
import pickle
import runpy
import subprocess
import sys

import cv2
import numpy as np
import pytest
import shipped
import torch
from in_process import run_tool
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope
from ports import free_port
from shipped import DETECTORS_AND_SEGMENTORS, ROOT, THEIR_BASES
from torch import nn

from mlp_backbones.engine import launch, options

CONFIGS = sorted((ROOT / 'configs').glob('*.py'))
MASK_RCNN = 'configs/gmlp_maskrcnn_coco.py'
UPERNET = 'configs/gmlp_upernet_ade20k.py'


def run(*command, expect=0, **environment):
    """Run a tool in the repository's root, on one thread and no GPU."""
    result = subprocess.run(
        [sys.executable if word == 'python' else str(word) for word in command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        env=dict(os.environ, PYTHON=sys.executable, PYTHONPATH=str(ROOT), **environment)
        | dict(OMP_NUM_THREADS='1', CUDA_VISIBLE_DEVICES=''),
    )
    assert result.returncode == expect, result.stdout[-1000:] + result.stderr[-9000:]
    return result


@pytest.mark.parametrize('path', [*DETECTORS_AND_SEGMENTORS, *THEIR_BASES], ids=shipped.name)
def test_every_config_loads(path):
    given = launch.load_config(str(path)).to_dict()
    # without yapf's line breaks, which each training has, and which are nearly all of the time
    text = Config(given, format_python_code=False).pretty_text
    assert Config.fromstring(text, '.py').to_dict() == given


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_data_root_reaches_every_data_set_and_evaluator(path):
    old = Config.fromfile(path).data_root.rstrip('/')
    cfg = launch.load_config(str(path), {'data_root': '/elsewhere'})
    for section in options.DATA_SECTIONS:
        assert old not in str(cfg[section])
    for loop in ('train', 'val', 'test'):
        assert cfg[f'{loop}_dataloader'].dataset.data_root.rstrip('/') == '/elsewhere'


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_only_weights_decay(path):
    cfg = launch.load_config(str(path))
    init_default_scope(cfg.default_scope)
    model = nn.ModuleDict(dict(backbone=MODELS.build(cfg.model.backbone)))
    optim_wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    decay = {
        id(parameter): group['weight_decay']
        for group in optim_wrapper.param_groups
        for parameter in group['params']
    }
    exempt = cfg.optim_wrapper.paramwise_cfg.get('custom_keys', {})
    for name, parameter in model.named_parameters():
        if parameter.ndim < 2 or name.endswith('bias'):
            assert decay[id(parameter)] == 0, name
        elif not any(key in name for key in exempt):
            assert decay[id(parameter)] == cfg.optim_wrapper.optimizer.weight_decay, name


@pytest.mark.parametrize(
    'command, messages',
    [
        (
            ['train.py', 'configs/gmlp_maskrcnn.py'],
            ['no config file configs/gmlp_maskrcnn.py', 'did you mean', MASK_RCNN],
        ),
        (
            ['train.py', MASK_RCNN, '--cfg-options', 'data_root=/nowhere'],
            [
                '/nowhere/ does not exist (train_dataloader.dataset.data_root)',
                '(val_evaluator.ann_file)',
                'docs/training.md#data',
            ],
        ),
        (
            ['train.py', 'mlp_backbones::gmlp.py'],
            ['no config gmlp.py', ' gmlp_maskrcnn_coco.py'],
        ),
        (
            ['train.py', MASK_RCNN, '--cfg-options', 'modell.backbone.arch=tiny'],
            ['modell.backbone.arch: the config has no modell; did you mean model?'],
        ),
        (
            ['train.py', UPERNET, '--cfg-options', 'optim_wrapper.optimzer.lr=1'],
            ['has no optim_wrapper.optimzer; did you mean optimizer?'],
        ),
        (
            ['train.py', MASK_RCNN, '--cfg-options', 'model.backbone.type=mlp_backbones.GMPL'],
            ["model.backbone.type='mlp_backbones.GMPL' does not exist; did you mean GMLP"],
        ),
        (
            ['train.py', MASK_RCNN, '--cfg-options', 'model.backbone.type=mlp_backbones.X'],
            ["model.backbone.type='mlp_backbones.X' does not exist; there are", 'PlainViT'],
        ),
        (
            ['train.py', UPERNET, '--cfg-options', 'model.decode_head.type=UPerHed'],
            ["model.decode_head.type='UPerHed' does not exist; did you mean UPerHead"],
        ),
        (
            ['train.py', MASK_RCNN, '--cfg-options', 'val_evaluator.type=CocoMetrik'],
            ["val_evaluator.type='CocoMetrik' does not exist; did you mean CocoMetric"],
        ),
        (
            ['train.py', MASK_RCNN, '--cfg-options', 'model.roi_head.mask_head.num_classes=3'],
            ['model.roi_head.mask_head.num_classes=3, but', 'has 80 classes: person, bicycle'],
        ),
        (
            ['train.py', UPERNET, '--cfg-options', 'model.decode_head.num_classes=3'],
            ['model.decode_head.num_classes=3, but', 'has 150 classes: wall, building'],
        ),
        (
            [
                'train.py',
                'mlp_backbones::' + MASK_RCNN[8:],
                '--cfg-options',
                'model.backbone.arch=x',
            ],
            ["model.backbone: arch='x' is not a preset of GMLP"],
        ),
        (
            ['train.py', UPERNET, '--cfg-options', 'model.pretrained=torchvision://resnet50'],
            ['model.backbone: ', 'write pretrained=None'],
        ),
        (
            ['train.py', MASK_RCNN, '--cfg-options', 'model.backbone.out_indices=1,2,3'],
            ['model.neck.in_channels=[96, 192, 384, 768] does not fit', 'maps of [192, 384, 768]'],
        ),
        (
            ['train.py', UPERNET, '--cfg-options', 'model.backbone.arch=nano'],
            [
                'model.decode_head.in_channels=[96, 192, 384, 768] does not fit',
                '[32, 64, 128, 256]',
            ],
        ),
        (
            ['train.py', UPERNET, '--cfg-options', 'model.auxiliary_head.in_index=4'],
            ["model.auxiliary_head.in_index=4 is beyond the backbone's maps"],
        ),
        (
            ['train.py', MASK_RCNN, '--cfg-options', 'runner_type=FlexibleRuner'],
            ["runner_type='FlexibleRuner' does not exist; there are", 'FlexibleRunner', 'RUNNERS'],
        ),
        (['train.py', MASK_RCNN, '--amp'], ['needs a GPU']),
        (['test.py', MASK_RCNN, 'nowhere.pth'], ['no checkpoint nowhere.pth']),
        (['test.py', MASK_RCNN, 'LICENSE'], ['LICENSE cannot be read as a checkpoint']),
        (['test.py', MASK_RCNN, 'a.pth', '--out', 'folder'], ['must end in .json or .pkl']),
        (['test.py', UPERNET, 'a.pth', '--out', 'a.pkl'], ['are label maps, PNG files']),
        (['test.py', MASK_RCNN, 'a.pth', '--tta'], ['--tta needs tta_model and tta_pipeline']),
        (
            [
                'test.py',
                MASK_RCNN,
                'a.pth',
                '--show-dir',
                'x',
                '--cfg-options',
                'default_hooks.visualization=None',
            ],
            ['--show-dir need default_hooks.visualization'],
        ),
    ],
    ids=lambda value: ' '.join(value) if 'py' in value[0] else None,
)
def test_a_mistake_ends_a_tool_with_one_message(command, messages, monkeypatch):
    if '--amp' in command and torch.cuda.is_available():
        pytest.skip('--amp is no mistake here')
    tool, *arguments = command
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv('LOCAL_RANK', '0')
    monkeypatch.setattr(sys, 'argv', command)
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(ROOT / 'tools' / tool), run_name='__main__')
    # Python prints a text to stderr, and nothing else, and the exit code is 1.
    assert end.value.code.startswith(f'{tool}: ')
    for message in messages:
        assert message in end.value.code


def test_scripts_say_how_they_are_called():
    for script in ('dist_train.sh', 'dist_test.sh', 'slurm_train.sh'):
        assert f'{script} ' in run(f'tools/{script}', expect=2).stderr


@pytest.mark.parametrize('code, requeued', [(75, True), (1, False), (0, False)])
def test_a_slurm_job_is_requeued_if_the_training_has_saved_and_left(tmp_path, code, requeued):
    """With stand-ins for Slurm's programs, which this machine does not have."""
    programs = dict(
        sbatch=f'printf "%s\n" "$@" > {tmp_path}/sbatch\nSLURM_JOB_ID=42 bash -s',
        srun=f'printf "%s\n" "$@" > {tmp_path}/srun\nexit {code}',
        scontrol=f'echo "$@" > {tmp_path}/scontrol',
    )
    for name, text in programs.items():
        path = tmp_path / 'bin' / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f'#!/usr/bin/env bash\n{text}\n')
        path.chmod(0o755)
    run(
        'tools/slurm_train.sh', '--requeue', 'gpu', 'name', 'config.py', tmp_path / 'work',
        '--cfg-options', 'a=b c', expect=code, PATH=f'{tmp_path}/bin:{os.environ["PATH"]}',
        SBATCH_ARGS='--time=04:00:00', GRACE='60',
    )  # fmt: skip
    options = (tmp_path / 'sbatch').read_text().split('\n')
    assert {'--requeue', '--signal=USR1@60', '--time=04:00:00', '--ntasks=8'} < set(options)
    command = (tmp_path / 'srun').read_text().split('\n')
    begin = command.index(sys.executable)
    assert command[begin:-1] == [
        sys.executable, '-u', 'tools/train.py', 'config.py', '--work-dir', str(tmp_path / 'work'),
        '--launcher', 'slurm', '--cfg-options', 'a=b c', '--resume',
    ]  # fmt: skip
    assert (tmp_path / 'scontrol').exists() == requeued
    if requeued:
        assert (tmp_path / 'scontrol').read_text() == 'requeue 42\n'


@pytest.fixture(scope='module')
def coco(tmp_path_factory):
    """Four pictures of one bright square, in COCO's layout."""
    from mmdet.datasets import CocoDataset

    root = tmp_path_factory.mktemp('coco')
    images, annotations = [], []
    classes = CocoDataset.METAINFO['classes']
    categories = [dict(id=i + 1, name=name) for i, name in enumerate(classes)]
    for i in range(4):
        image = np.full((64, 64, 3), 60, np.uint8)
        x = y = 4 + 8 * i
        image[y : y + 32, x : x + 32] = 220
        for split in ('train2017', 'val2017'):
            (root / split).mkdir(exist_ok=True)
            cv2.imwrite(str(root / split / f'{i}.png'), image)
        images.append(dict(id=i, file_name=f'{i}.png', width=64, height=64))
        corners = [x, y, x + 32, y, x + 32, y + 32, x, y + 32]
        annotations.append(
            dict(id=i + 1, image_id=i, category_id=1, bbox=[x, y, 32, 32], area=1024, iscrowd=0,
                 segmentation=[corners])
        )  # fmt: skip
    content = dict(images=images, annotations=annotations, categories=categories)
    (root / 'annotations').mkdir()
    for split in ('train', 'val'):
        (root / 'annotations' / f'instances_{split}2017.json').write_text(json.dumps(content))
    return root


@pytest.mark.slow
def test_two_processes_train_then_one_resumes_and_tests(coco, tmp_path, monkeypatch):
    options = [
        '--cfg-options',
        f'data_root={coco}',
        'randomness.seed=0',
        'model.backbone.arch=nano',
        'model.neck.in_channels=32,64,128,256',
        'model.neck.norm_cfg.type=SyncBN',  # which is for GPUs
        'model.roi_head.bbox_head.fc_out_channels=16',
        # Boxes with any score, so that an untrained model has some to evaluate.
        'model.test_cfg.rcnn.score_thr=0.',
        'model.test_cfg.rcnn.max_per_img=5',
        *(
            f'{loop}_dataloader.{setting}'
            for loop in ('train', 'val', 'test')
            for setting in ('num_workers=0', 'persistent_workers=False')
        ),
        'train_dataloader.dataset.pipeline.2.scale=(64,64)',
        'val_dataloader.dataset.pipeline.1.scale=(64,64)',
        'test_dataloader.dataset.pipeline.1.scale=(64,64)',
        'default_hooks.logger.interval=1',
    ]
    work_dir = ['--work-dir', tmp_path]
    result = run(
        'tools/dist_train.sh', MASK_RCNN, 2, *work_dir, '--auto-scale-lr', *options,
        'train_cfg.max_epochs=1', PORT=free_port(),
    )  # fmt: skip
    assert 'distributed on CPUs with gloo, 2 processes' in result.stdout
    assert 'coco/segm_mAP' in result.stdout + result.stderr

    # A training goes on from a checkpoint whose configs are programs, and they are not run.
    state = torch.load(tmp_path / 'epoch_1.pth', weights_only=False)
    trace = tmp_path / 'it_ran'
    code = f'import os\nos.mkdir({str(trace)!r})\nmodel = dict()\n'
    state['meta'].update(cfg=code, config=code)
    state['message_hub']['runtime_info']['cfg'] = code
    torch.save(state, tmp_path / 'epoch_1.pth')
    assert not run_tool(
        monkeypatch, 'train.py', MASK_RCNN, *work_dir, '--resume', *options,
        'train_cfg.max_epochs=2', 'train_cfg.val_interval=9',
    )  # fmt: skip
    state = torch.load(tmp_path / 'epoch_2.pth', weights_only=False)
    assert state['meta']['iter'] == 1 + 2  # two processes, then one
    assert not trace.exists()

    predictions = tmp_path / 'predictions.pkl'
    run(
        'tools/dist_test.sh', MASK_RCNN, tmp_path / 'epoch_2.pth', 2, *work_dir, '--out',
        predictions, '--show-dir', tmp_path / 'pictures', '--report', tmp_path / 'report',
        *options, PORT=free_port(),
    )  # fmt: skip
    report = json.loads((tmp_path / 'report' / 'report.json').read_text())
    assert report['images'] == 4 and sum(map(sum, report['confusion']['matrix'][:-1])) == 4
    assert len(pickle.loads(predictions.read_bytes())) == 4
    # mmengine draws in the first process alone
    assert len(list((tmp_path / 'pictures').iterdir())) == 2
