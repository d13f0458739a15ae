"""Refer-YouTube-VOS -> a folder that `datasets.load_dataset` loads: the same as `cvls convert refer_youtube_vos`.

python dataset_scripts/refer_youtube_vos.py --source RAW --output DATASET
"""

import sys

from cvls import main

if __name__ == "__main__":
    main(["convert", "refer_youtube_vos", *sys.argv[1:]])
