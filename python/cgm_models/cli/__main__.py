import sys

from .main import main

if __name__ == "__main__":  # spawned processes import this module
    sys.exit(main())
