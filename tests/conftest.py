import os

from hypothesis import settings

# Sizes differ a lot in what they cost, and the machine may be busy: no deadline. In CI
# the examples are the same in every run.
settings.register_profile(
    'project', deadline=None, max_examples=40, derandomize='CI' in os.environ
)
settings.load_profile('project')
