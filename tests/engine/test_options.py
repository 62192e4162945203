"""``--cfg-options``"""

import copy

import pytest
from coco_like import coco_like
from hypothesis import given
from hypothesis import strategies as st
from mmengine.config import Config, ConfigDict

from mlp_backbones.engine import options

names = st.text('abc', min_size=1, max_size=3)
paths = st.lists(names, min_size=1, max_size=4).map('/'.join)
nodes = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), paths, st.just('')),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.tuples(inner, inner),
        st.dictionaries(names, inner, max_size=3),
        st.dictionaries(names, inner, max_size=3).map(ConfigDict),
    ),
    max_leaves=12,
)


def leaves(node):
    if isinstance(node, dict):
        return [leaf for value in node.values() for leaf in leaves(value)]
    if isinstance(node, (list, tuple)):
        return [leaf for value in node for leaf in leaves(value)]
    return [node]


def is_below(path, root):
    return isinstance(path, str) and (path + '/').startswith(root + '/')


@given(nodes, paths)
def test_moving_a_data_root_moves_what_is_below_it_and_nothing_else(node, old):
    before = copy.deepcopy(node)
    moved = options.move_data_root(node, old, '/new')
    assert node == before  # a copy
    assert type(moved) is type(node)
    for was, now in zip(leaves(node), leaves(moved), strict=True):
        assert now == ('/new' + was[len(old) :] if is_below(was, old) else was)


@given(nodes, paths)
def test_moving_a_data_root_there_and_back_changes_nothing(node, old):
    there = options.move_data_root(node, old, '/new')
    assert options.move_data_root(there, '/new', old) == node


@pytest.mark.parametrize('old', ['data/coco', 'data/coco/'])
@pytest.mark.parametrize('new', ['/x', '/x/', 'data/coco/more'])
def test_slashes_at_the_end_of_a_data_root_do_not_matter(old, new):
    cfg = dict(data_root=old, ann_file=old.rstrip('/') + '/a.json', other='data/coco2/a.json')
    moved = options.move_data_root(cfg, old, new)
    new = new.rstrip('/')
    assert moved.pop('data_root').rstrip('/') == new
    assert moved == dict(ann_file=f'{new}/a.json', other='data/coco2/a.json')


def test_longer_options_win_over_data_root():
    cfg = coco_like()
    options.apply_options(cfg, {'test_dataloader.dataset.data_root': '/b', 'data_root': '/a'})
    assert cfg.data_root == '/a'
    assert cfg.val_dataloader.dataset.data_root == '/a/'
    assert cfg.val_evaluator.ann_file == '/a/val.json'
    assert cfg.test_dataloader.dataset.data_root == '/b'
    assert cfg.test_evaluator[0].ann_file == '/a/val.json'


def test_options_that_do_not_fit_the_config_are_refused():
    with pytest.raises(ValueError, match='no top-level data_root'):
        options.apply_options(Config(dict(a=1)), {'data_root': '/a'})
    with pytest.raises(ValueError, match='is not a path'):
        options.apply_options(coco_like(), {'data_root': 3})
    with pytest.raises(ValueError, match=r'test_evaluator\.7\.ann_file=x does not fit'):
        options.apply_options(coco_like(), {'test_evaluator.7.ann_file': 'x'})
    with pytest.raises(ValueError, match='does not fit'):
        options.apply_options(coco_like(), {'data_root.x': '1'})
