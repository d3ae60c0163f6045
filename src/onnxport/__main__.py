"""`python -m onnxport`."""

import sys

from onnxport.cli import process

if __name__ == "__main__":
    sys.exit(process())
