"""DNA language models in JAX/Flax, and the virus detector that is made from them."""

__version__ = "0.1.0"
