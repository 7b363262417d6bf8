"""Two machines of one run, a slow network between them, and the network cut: two network namespaces of this one."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import ppl_vae

ROOT = Path(__file__).resolve().parent.parent
SLOW = "rate 50mbit burst 32kbit latency 400ms"
pytestmark = pytest.mark.slow


def ip(*words):
    subprocess.run(["ip", *words], check=True, capture_output=True, timeout=20)


@pytest.fixture
def machines():
    """Names of two namespaces that reach each other at 10.77.0.1 and 10.77.0.2, over a link of 50 Mbit/s."""
    names = [f"ppl{os.getpid()}{end}" for end in "ab"]
    try:
        for name in names:
            ip("netns", "add", name)
        ip("link", "add", "v0", "netns", names[0], "type", "veth", "peer", "name", "v0", "netns", names[1])
        for number, name in enumerate(names, 1):
            inside = ["netns", "exec", name]
            ip(*inside, "ip", "addr", "add", f"10.77.0.{number}/24", "dev", "v0")
            ip(*inside, "ip", "link", "set", "lo", "up")
            ip(*inside, "ip", "link", "set", "v0", "up")
            ip(
                *inside,
                "tc",
                "qdisc",
                "add",
                "dev",
                "v0",
                "root",
                *["tbf", "rate", "50mbit", "burst", "32kbit", "latency", "400ms"],
            )
    except (OSError, subprocess.CalledProcessError) as error:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)
        pytest.skip(f"no network namespaces here: {error}")
    yield names
    for name in names:
        subprocess.run(["ip", "netns", "del", name], capture_output=True)


def started(machine, rank, words, seconds="5"):
    """One process of two on a machine, as a launcher starts it."""
    env = os.environ | {
        "RANK": str(rank),
        "WORLD_SIZE": "2",
        "LOCAL_RANK": "0",
        "MASTER_ADDR": "10.77.0.1",
        "MASTER_PORT": "29511",
        "GLOO_SOCKET_IFNAME": "v0",
        "PPL_VAE_TIMEOUT": seconds,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
    }
    inside = ["ip", "netns", "exec", machine]
    return subprocess.Popen(
        [*inside, sys.executable, "-m", "ppl_vae", *words],
        env=env,
        text=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def test_a_network_that_is_cut_ends_the_run_with_one_line_and_it_goes_on(tmp_path, machines):
    out = tmp_path / "run"
    words = ["fit", "--epochs", "3000", "--patience", "0", "--compile", "off", "--no-report", "--hidden", "8"]
    words += ["--latent-dim", "2", "--evaluate-particles", "10", "--out", str(out)]
    processes = [started(machine, rank, words, "20") for rank, machine in enumerate(machines)]
    deadline = time.monotonic() + 200
    while not (out / "checkpoint" / "state.safetensors").is_file():
        assert time.monotonic() < deadline
        assert all(process.poll() is None for process in processes), [p.stderr.read() for p in processes]
        time.sleep(0.1)
    ip("netns", "exec", machines[1], "ip", "link", "set", "v0", "down")
    for process in processes:
        _, said = process.communicate(timeout=120)
        lines = [line for line in said.splitlines() if line.startswith("ppl-vae: ") and "warning" not in line]
        assert process.returncode == 2, said
        assert len(lines) == 1, said  # one on each machine: they cannot hear each other
        assert "lost another one of the run" in lines[0]
        assert f"--resume --out {out}" in lines[0]
        assert "Traceback" not in said
    from ppl_vae.saving.tensors import read_tensors

    state = read_tensors(out / "checkpoint" / "state.safetensors", "start anew")
    words[words.index("3000")] = str(epochs := len(state.about["progress"]["history"]) + 1)
    ip("netns", "exec", machines[1], "ip", "link", "set", "v0", "up")
    processes = [started(machine, rank, [*words, "--resume"], "60") for rank, machine in enumerate(machines)]
    for process in processes:
        _, said = process.communicate(timeout=200)
        assert process.returncode == 0, said
    assert len(ppl_vae.open_run(out).history) == epochs
