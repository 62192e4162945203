"""The benchmarks run and report; no test here looks at a time."""

import csv
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / 'tools'))

import benchmark  # noqa: E402
import benchmark_bars  # noqa: E402
import resolution_study  # noqa: E402
from benchmark import Setting  # noqa: E402

NANO = "GMLP(arch='nano')"


def run(monkeypatch, module, *arguments):
    monkeypatch.setattr(sys, 'argv', [module.__name__, *map(str, arguments)])
    module.main()


def test_a_table_a_csv_file_and_a_plot(monkeypatch, tmp_path, capsys):
    arguments = ['--size', 40, 50, '--batch', 2, '--train', '--rounds', 1, '--threads', 1]
    files = ['--csv', tmp_path / 'a.csv', '--plot', tmp_path / 'a.png']
    run(monkeypatch, benchmark, 'mmdet.ResNet(depth=18)', NANO, *arguments, *files)
    printed = capsys.readouterr().out
    assert 'training step, 2 x 40 x 50, float32, cpu' in printed and NANO in printed
    reference, ours = csv.DictReader((tmp_path / 'a.csv').open())
    assert reference['model'] == 'mmdet.ResNet(depth=18)' and reference['time ratio'] == '1.00'
    assert float(ours['memory MB']) > 100  # of a process of its own, with torch in it
    assert ours['GMACs'] != '-' and ours['params M'] == '2.4'
    assert cv2.imread(str(tmp_path / 'a.png')) is not None


def test_timm_models_give_features():
    from reference import import_timm

    import_timm()
    model = benchmark.build('timm.resmlp_12_224')
    assert benchmark.count_macs(model, Setting((224, 224), batch=2)) > 5e9


@pytest.mark.parametrize(
    'text, message',
    [
        ('GMLP(3)', 'is not a model'),
        ('GMLP(arch=nano)', 'is not a model'),
        ('a b', 'is not a model'),
        ("GMLP(arch='nan')", "did you mean nano|choose among 'nano'"),
        ('mmdet.Nothing', 'cannot be built'),
    ],
)
def test_a_model_that_is_none_is_named(monkeypatch, text, message):
    with pytest.raises(SystemExit, match=message):
        run(monkeypatch, benchmark, text, '--rounds', 1, '--no-memory')


def test_the_bars_that_take_no_time_to_measure():
    for text, figure, limit in benchmark_bars.mixing_memory():
        assert figure <= limit, text
    (dense,) = benchmark_bars.against_the_dense_weight(rounds=1)  # compares the results too
    assert 'dense' in dense[0]


@pytest.fixture
def camvid(tmp_path):
    rng = np.random.default_rng(0)
    for split, num in (('train', 4), ('val', 2)):
        for kind, shape, suffix in (
            ('images', (360, 480, 3), 'jpg'),
            ('annotations', (360, 480), 'png'),
        ):
            folder = tmp_path / kind / split
            folder.mkdir(parents=True)
            for i in range(num):
                image = rng.integers(12, size=shape, dtype=np.uint8)
                cv2.imwrite(str(folder / f'{i}.{suffix}'), image)
    return tmp_path


def test_the_resolution_study_trains_tests_and_goes_on(camvid, monkeypatch, tmp_path, capsys):
    out, plot = tmp_path / 'study.csv', tmp_path / 'study.png'
    arguments = [camvid, '--out', out, '--iters', 20, '--batch-size', 2, '--seeds', 0]
    for rows in ('GMLP one size', 'GMLP residual', 'S2MLP', 'S2MLP', 'Swin', 'ResNet'):
        run(monkeypatch, resolution_study, *arguments, '--rows', rows)
    names = [row['row'] for row in csv.DictReader(out.open())]
    assert names == [
        'GMLP one size', 'GMLP one size, slide', 'GMLP one size, pad', 'GMLP residual resampled',
        'S2MLP', 'Swin (attention)', 'ResNet-18 (conv)',
    ]  # fmt: skip
    capsys.readouterr()
    run(monkeypatch, resolution_study, '--out', out, '--report', '--plot', plot)
    assert '| GMLP one size, slide | 4.3 | 1 |' in capsys.readouterr().out
    assert cv2.imread(str(plot)) is not None


def test_a_row_is_chosen_by_its_name_or_a_part_of_it():
    rows = ('GMLP', 'ShiftGMLP', 'S2MLP')
    assert resolution_study.choose(rows, 'GMLP') == ['GMLP']
    assert resolution_study.choose(rows, 'G') == ['GMLP', 'ShiftGMLP']
    assert resolution_study.choose(rows, '') == list(rows)
    with pytest.raises(ValueError, match='--rows ViT: none of GMLP, ShiftGMLP, S2MLP'):
        resolution_study.choose(rows, 'ViT')


def test_the_study_needs_its_data(monkeypatch, tmp_path):
    with pytest.raises(SystemExit, match='no images in'):
        run(monkeypatch, resolution_study, tmp_path, '--out', tmp_path / 'a.csv')
    with pytest.raises(SystemExit, match='CamVid'):
        run(monkeypatch, resolution_study)
