"""The command line: `python -m flux_openai` runs the program `flux-openai`."""

import sys

from flux_openai.cli import main

if __name__ == "__main__":
    sys.exit(main())
