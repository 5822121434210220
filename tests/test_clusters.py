"""The examples for Slurm and Kubernetes: the script of Slurm trains on two pretended machines."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from toys import recipe

from vidrl.recipe.toml import write
from vidrl.training import launch

ROOT = Path(__file__).parents[1]
SLURM, KUBERNETES = (ROOT / "scripts/examples" / name for name in ("slurm.sh", "kubernetes.yaml"))
# One machine of the job, as often as Slurm has machines, each with a torchrun of its own.
SRUN = '#!/bin/bash\nfor _ in $(seq "$SLURM_NNODES"); do "$@" & done\nwait -n && wait -n\n'
SCONTROL = '#!/bin/bash\n[ "$1 $2" = "show hostnames" ] && echo localhost && echo other\n'


def flags_of_torchrun() -> set[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--help"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return set(re.findall(r"--[a-z][a-z-]+", text.replace("_", "-")))


def commands(folder: Path) -> Path:
    """A folder with the commands of Slurm, and torchrun with this Python."""
    torchrun = f'#!/bin/bash\nexec {sys.executable} -m torch.distributed.run "$@"\n'
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL), ("torchrun", torchrun)):
        file = folder / name
        file.write_text(text)
        file.chmod(0o755)
    return folder


@pytest.mark.slow
def test_the_script_of_slurm_trains_on_two_machines(tmp_path):
    made = recipe(tmp_path, train_rounds=1)
    (tmp_path / "made.toml").write_text(write(made))
    bin = tmp_path / "bin"
    bin.mkdir()
    variables = {
        "PATH": f"{commands(bin)}:{os.environ['PATH']}",
        "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}",
        "SLURM_JOB_NODELIST": "n[0-1]",
        "SLURM_NNODES": "2",
        "SLURM_GPUS_ON_NODE": "1",
        "SLURM_JOB_ID": "7",
        "MASTER_PORT": str(launch._free_port()),
        "GLOO_SOCKET_IFNAME": "lo",
        "ACCELERATE_USE_CPU": "true",
    }
    done = subprocess.run(
        ["bash", SLURM, tmp_path / "made.toml", "seed=3"],
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert found["rounds"] == 1 and "seed = 3" in (tmp_path / "run" / "config.toml").read_text()


def test_the_flags_of_the_examples_are_torchruns():
    known = flags_of_torchrun()
    text = SLURM.read_text().split("torchrun \\\n")[1].split("-m vidrl")[0]
    assert set(re.findall(r"--[a-z-]+", text)) <= known
    command = job()["spec"]["template"]["spec"]["containers"][0]["command"]
    ours = command[1 : command.index("-m")]
    assert {flag.partition("=")[0] for flag in ours} <= known
    assert command[command.index("-m") :] == ["-m", "vidrl", "train", "recipe.toml", "--resume"]


def job() -> dict:
    return list(yaml.safe_load_all(KUBERNETES.read_text()))[1]


def test_the_pods_of_kubernetes_find_each_other():
    """A pod of an indexed job is named job-index, within the subdomain that the service gives."""
    service, made = yaml.safe_load_all(KUBERNETES.read_text())
    pod = made["spec"]["template"]["spec"]
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["selector"] == {"job-name": made["metadata"]["name"]}
    assert pod["subdomain"] == service["metadata"]["name"]
    command = pod["containers"][0]["command"]
    assert f"--master-addr={made['metadata']['name']}-0.{pod['subdomain']}" in command
    assert made["spec"]["completions"] == made["spec"]["parallelism"] == 2
    assert f"--nnodes={made['spec']['completions']}" in command
