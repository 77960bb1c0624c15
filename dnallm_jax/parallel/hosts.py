"""How does a program start on this machine and its peers? Platform, fake devices, cache."""

import os
import pathlib
from types import ModuleType

from data_pipeline.errors import UserError

# What each platform needs to be installed.
_REQUIREMENTS = {
    "cpu": "requirements.txt",
    "gpu": "requirements-cuda.txt",
    "tpu": "requirements-tpu.txt",
}


def start(platform: str = "", devices: int = 0) -> None:
    """Sets up JAX before its first use; call it once, before anything touches a device.

    Args:
      platform: "cpu", "gpu" or "tpu" is demanded and never replaced by another; "" takes what is
        there.
      devices: more than 0 makes the CPU look like that many devices (a rehearsal of a pod).

    Raises:
      UserError: no such platform, or it (or that many devices) is not there.
    """
    if platform not in ("", *_REQUIREMENTS):
        raise UserError(f"--platform={platform} is not one of {', '.join(_REQUIREMENTS)}")
    if devices:
        if platform not in ("", "cpu"):
            raise UserError(
                f"--devices={devices} makes fake CPU devices; leave out --platform={platform}"
            )
        platform = "cpu"
        flag = f"--xla_force_host_platform_device_count={devices}"
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip()
    if platform:
        os.environ["JAX_PLATFORMS"] = {"gpu": "cuda"}.get(platform, platform)
    import jax

    _set_compilation_cache(jax)
    try:
        found = jax.devices()
    except RuntimeError as error:
        install = _REQUIREMENTS.get(platform, "the requirements of the accelerator in use")
        raise UserError(
            f"--platform={platform or 'auto'}: no such device here ({str(error).splitlines()[0]}); "
            f"install {install}, or check that no other process holds the device"
        ) from error
    if platform and found[0].platform != platform:
        raise UserError(
            f"--platform={platform} was asked for but JAX found {found[0].platform}; "
            "nothing was run"
        )
    if devices and len(found) != devices:
        raise UserError(
            f"--devices={devices} was asked for but JAX has {len(found)}; look for another "
            "xla_force_host_platform_device_count in the environment variable XLA_FLAGS"
        )


def _set_compilation_cache(jax: ModuleType) -> None:
    """Compiled steps are kept between runs, so that a second start takes seconds."""
    if os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return  # the user's own choice
    home = pathlib.Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser()
    jax.config.update("jax_compilation_cache_dir", str(home / "dnallm_jax" / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def is_main() -> bool:
    """Whether this process writes logs and reports (process 0 of the job)."""
    import jax

    return jax.process_index() == 0
