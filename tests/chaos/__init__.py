"""Chaos: many short jobs on several workers while a monkey breaks everything, and an auditor who looks at the end.

`site.py` is the service under test, `workload.py` the jobs and what must come of each, `monkey.py` the faults,
`audit.py` what has to be true afterwards, and `__main__.py` puts them together: `make chaos`.
"""
