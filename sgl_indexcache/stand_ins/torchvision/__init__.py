"""Stand-in for `torchvision`: what SGLang 0.5.17 and transformers 5.12.1 read while they are imported."""

from torchvision import io as io
from torchvision import ops as ops
from torchvision import transforms as transforms

__version__ = "0.0.0+standin"
