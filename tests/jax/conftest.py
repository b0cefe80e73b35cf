"""Eight devices on one CPU for every test of teva_jax; set before jax is imported anywhere."""

from __future__ import annotations

import os

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
# XLA's pool of threads: with fewer than devices, they wait for each other until one gives up.
os.environ["NPROC"] = "16"
