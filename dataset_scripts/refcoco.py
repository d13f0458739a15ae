"""RefCOCO, RefCOCO+, RefCOCOg -> a folder that `datasets.load_dataset` loads: the same as `cvls convert refcoco`.

python dataset_scripts/refcoco.py --source RAW --output DATASET --dataset refcoco+
"""

import sys

from cvls import main

if __name__ == "__main__":
    main(["convert", "refcoco", *sys.argv[1:]])
