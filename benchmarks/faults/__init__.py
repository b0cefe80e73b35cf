"""Things that go wrong on purpose: kills, flipped bytes, full disks, two writers, dead workers, slow readers.

What is tried is a command of teva's on tiny models and data (:mod:`works`), run in a process that is forked from one
that has imported everything (:mod:`forks`), so that hundreds of kills take minutes. `tests/faults` tries a few of each,
`python -m benchmarks.claims faults` many, and adds them up.
"""
