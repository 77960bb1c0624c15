"""What would a GPU do? A device that JAX's CUDA plugin describes and compiles for, none at hand."""

import importlib.util

import jax
import pytest
from jax.experimental import topologies

gpu_compiler = pytest.mark.gpu_compiler

_H100 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048
  shared_memory_per_block: 49152 shared_memory_per_core: 233472
  shared_memory_per_block_optin: 232448 core_count: 132 fpus_per_core: 128
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000 l2_cache_size: 52428800 clock_rate_ghz: 1.98
  device_memory_size: 84942979072 registers_per_core_limit: 65536
  registers_per_block_limit: 65536 cuda_compute_capability { major: 9 minor: 0 }
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 12 patch: 0 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""


def h100() -> jax.Device:
    """The device; the test is skipped without the CUDA plugin of JAX."""
    if importlib.util.find_spec("jax_cuda13_plugin") is None:
        pytest.skip("JAX's plugin for CUDA is not installed (requirements-cuda.txt)")
    jax.devices()  # plugins are found on the way
    found = topologies.get_topology_desc("h100", "cuda", target_config=_H100, topology="1x1x1")
    return found.devices[0]
