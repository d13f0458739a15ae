"""Ref-DAVIS17 -> a folder that `datasets.load_dataset` loads: the same as `cvls convert ref_davis17`.

python dataset_scripts/ref_davis17.py --source RAW --output DATASET
"""

import sys

from cvls import main

if __name__ == "__main__":
    main(["convert", "ref_davis17", *sys.argv[1:]])
