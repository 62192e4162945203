import gc
import logging
import os

import metafiles  # noqa: F401
import pytest
from hypothesis import settings

# Sizes differ a lot in what they cost, and the machine may be busy: no deadline. In CI
# the examples are the same in every run.
settings.register_profile(
    'project', deadline=None, max_examples=40, derandomize='CI' in os.environ
)
settings.load_profile('project')


def pytest_collection_modifyitems(items):
    """The longest first: at the end, a worker would wait for the one that runs them."""
    items.sort(key=lambda item: item.get_closest_marker('slow') is None)


def pytest_collection_finish():
    """Every data set of mmengine collects garbage, which need not go through all that is imported
    by now.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def own_visualizers():
    """mmengine keeps a visualizer by its name, with the folder of the first that had it: each test
    begins without any.
    """
    from mmengine.visualization import Visualizer

    classes = [Visualizer]
    for cls in classes:
        cls._instance_dict.clear()
        classes += cls.__subclasses__()
    yield


@pytest.fixture(autouse=True)
def own_logging():
    """The benchmarks silence the warnings of their process."""
    yield
    logging.disable(logging.NOTSET)
