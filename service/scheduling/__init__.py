"""The scheduler: a pure function from a snapshot of rows to placements, and to the reasons why every other job waits.

The same code decides in the service, answers `dljobs why`, and runs in the simulator. It imports neither database nor
clock. Start reading at `planning.py`.
"""
