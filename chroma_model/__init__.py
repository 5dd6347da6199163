"""Chroma's transformer in plain torch: no host, no files, no device or dtype policy."""

from .config import ApproximatorConfig, ChromaConfig, NerfConfig
from .modulation import Approximator
from .ops import Ops
from .transformer import ChromaTransformer

__all__ = ["Approximator", "ApproximatorConfig", "ChromaConfig", "ChromaTransformer", "NerfConfig", "Ops"]
