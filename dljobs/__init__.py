"""dljobs: a distributed training service driven by a job queue.

This package only gives the fixed top-level folders (`service/`, `workers/`, `models/`, `migrations/`) one import name,
so that installing dljobs puts no module called `models` into a researcher's environment.
"""

__version__ = "0.1.0"
