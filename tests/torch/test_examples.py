"""The launchers in examples/ start a real run of two processes: on two machines, and in a container."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

EXAMPLES = Path(__file__).parents[2] / "examples"
# `torchrun` is looked for where this Python is, as in an environment that is activated.
PATH = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
ENVIRONMENT = {**os.environ, "PATH": PATH, "OMP_NUM_THREADS": "1"}

# What slurm has: srun starts the command once for each machine, both of which are this one here.
_COMMANDS = {
    "scontrol": 'test "$1 $2 $3" = "show hostnames two-nodes"\nprintf "localhost\\nlocalhost\\n"',
    "srun": 'shift\n"$@" & first=$!\n"$@" & second=$!\nwait $first\nwait $second',
}


@pytest.fixture
def overrides(recipe, tmp_path):
    """A recipe's file, as the one word behind `train`, and the words that make the run short."""
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe))
    return str(file), ["--train.steps", "2"]


def _expect_a_run_of_two(done, directory):
    assert done.returncode == 0, done.stdout + done.stderr
    assert "on 2 x cpu" in (directory / "train.log").read_text()
    assert (directory / "artifact/model.safetensors").is_file()
    assert done.stdout.count("after 2 steps") == 1


@pytest.mark.slow
def test_slurm_job_trains_on_two_machines(overrides, recipe, tmp_path):
    for name, body in _COMMANDS.items():
        command = tmp_path / "bin" / name
        command.parent.mkdir(exist_ok=True)
        command.write_text(f"#!/bin/bash\nset -e\n{body}\n")
        command.chmod(0o755)
    slurm = {
        "PATH": f"{tmp_path / 'bin'}:{PATH}", "SLURM_JOB_NODELIST": "two-nodes", "SLURM_JOB_NUM_NODES": "2",
        "SLURM_GPUS_ON_NODE": "1", "SLURM_JOB_ID": str(os.getpid()),
    }  # fmt: skip
    file, words = overrides
    done = subprocess.run(
        ["bash", str(EXAMPLES / "slurm/train.sbatch"), file, *words],
        env={**ENVIRONMENT, **slurm}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    _expect_a_run_of_two(done, Path(recipe["train"]["output"]))


@pytest.mark.slow
def test_container_trains_on_two_devices(overrides, recipe):
    dockerfile = (EXAMPLES / "container/Dockerfile").read_text()
    (entry,) = re.findall(r"^ENTRYPOINT (\[.*\])$", dockerfile, flags=re.MULTILINE)
    readme = (EXAMPLES / "container/README.md").read_text().replace("\\\n", " ")
    (arguments,) = re.findall(r"^docker run .* teva (train .*)$", readme, flags=re.MULTILINE)
    train, _, *given = shlex.split(arguments)
    file, words = overrides
    places = {"--data.path": recipe["data"]["path"], "--train.output": recipe["train"]["output"]}
    assert set(given[::2]) == set(places)
    words += [word for key in given[::2] for word in (key, places[key])]
    # `gpu` is as many processes as there are GPUs.
    command = ["2" if word == "gpu" else word for word in json.loads(entry)]
    assert "2" in command
    done = subprocess.run([*command, train, file, *words], env=ENVIRONMENT, capture_output=True, text=True, check=False)
    _expect_a_run_of_two(done, Path(recipe["train"]["output"]))


def test_what_the_image_copies_and_installs_is_there():
    text = (EXAMPLES / "container/Dockerfile").read_text()
    root = EXAMPLES.parent
    assert all((root / source).exists() for source in re.findall(r"^COPY (\S+) ", text, flags=re.MULTILINE))
    (package,) = re.findall(r"--package (\S+)", text)
    declared = (root / "packages" / package / "pyproject.toml").read_text()
    extras = set(re.findall(r"--extra ([\w-]+)", text))
    assert extras
    assert all(re.search(rf"^{extra} = \[", declared, flags=re.MULTILINE) for extra in extras)


@pytest.mark.parametrize("file", ["slurm/train.sbatch", "container/README.md"])
def test_the_recipe_of_an_example_is_shipped(file):
    from teva_torch.recipe import shipped

    text = (EXAMPLES / file).read_text().replace("\\\n", " ")
    (name,) = re.findall(r"(?:train\.sbatch|teva train) ([\w-]+) --data", text)
    assert name in shipped()
