"""Claims: statements with a figure, a target and a peer, each proved by a function that anyone can run.

    python -m benchmarks.claims                       every claim
    python -m benchmarks.claims eval scale            two groups
    python -m benchmarks.claims trec_eval_reference   one claim
    python -m benchmarks.claims --list                what there is

Options: ``--data DIR`` (the real collections; else the environment variable TEVA_CLAIMS_DATA, else ../shared/data),
``--quick`` (smaller work, claims marked slow left out), ``--output DIR`` (a JSON record a claim; default
benchmarks/results), ``--work DIR`` (keep the claims' work directories there), ``--seed N``.

The exit status is 1 where a claim fell short, failed, lacked its data, or where nothing was run. A claim that needs a
GPU where there is none is not met either, but does not by itself fail the run; the summary names it.

To add a claim, write a function in ``benchmarks/claims/<group>.py``::

    from benchmarks.claims import Context, Result, claim

    @claim("eval", "real_run", name="answer", target="the answer is 42", peer="{numpy}'s answer", needs=("data",))
    def answer(context: Context) -> Result:
        import numpy  # heavy imports belong inside: importing the module must stay cheap, for --list

        found = 42
        return Result({"answer": found}, passed=found == 42, notes="on one core", details={"steps": [...]})

- The groups are those of ``runner.GROUPS``. A claim may belong to several; its module is that of the first, and
  ``runner.ALSO`` names, for the other groups, the modules to look into as well.
- ``name`` is unique over all groups: it selects the claim, and names its record.
- ``peer``: what the figures are compared with, and its version: a text, in which ``{package}`` is replaced by the
  package's name and installed version, or a function that returns one.
- ``needs``: ``data`` (the collections) and ``gpu`` (a CUDA device).
- ``slow=True``: left out by ``--quick``. Otherwise a claim looks at ``context.quick`` to do less.
- ``Context``: ``data`` (directory of the collections), ``quick``, ``work`` (an empty directory of the claim's own),
  ``seed``.
- ``Result``: ``figures`` (printed and stored), ``passed``, ``notes`` (one line), ``details`` (stored only).
- A claim whose work could not be done raises; it never returns a figure that was not measured.
"""

from __future__ import annotations

from .runner import Claim, Context, Result, claim

__all__ = ["Claim", "Context", "Result", "claim"]
