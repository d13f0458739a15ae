"""Runs commands of `cvls` one after another, each in two processes of one group.

python commands_in_two.py COMMANDS.json [MODULE ...]

COMMANDS.json is a list of arguments of `cvls`. The modules are imported once, before the processes are forked.
"""

import importlib
import json
import sys
from pathlib import Path

import cvls
from children import start_group, wait

if __name__ == "__main__":
    for module in sys.argv[2:]:
        importlib.import_module(module)
    for arguments in json.loads(Path(sys.argv[1]).read_text()):
        statuses = [wait(child) for child in start_group(cvls.main, arguments)]
        if any(statuses):
            sys.exit(f"cvls {' '.join(arguments)} ended with {statuses}")
