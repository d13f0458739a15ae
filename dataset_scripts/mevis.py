"""MeViS -> a folder that `datasets.load_dataset` loads: the same as `cvls convert mevis`.

python dataset_scripts/mevis.py --source RAW --output DATASET
"""

import sys

from cvls import main

if __name__ == "__main__":
    main(["convert", "mevis", *sys.argv[1:]])
