"""`python -m onnxport`."""

import sys

from onnxport._command import process

if __name__ == "__main__":
    sys.exit(process())
