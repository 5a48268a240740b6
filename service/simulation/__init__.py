"""The simulator: the scheduler that decides in the service, run over a trace of jobs in simulated time.

It touches no database, no broker and no device. Start reading at `simulator.py`.
"""
