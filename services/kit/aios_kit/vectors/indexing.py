"""`python -m aios_kit.vectors.indexing <folder>`: builds an index in a process of its own, out of everyone's way."""

import os
import sys
from pathlib import Path

from aios_kit.vectors.edge_shard import index_files

_NICENESS = 10

if __name__ == "__main__":
    os.nice(_NICENESS)
    index_files(Path(sys.argv[1]))
