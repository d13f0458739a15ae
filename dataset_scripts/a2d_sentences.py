"""A2D Sentences -> a folder that `datasets.load_dataset` loads: the same as `cvls convert a2d_sentences`.

python dataset_scripts/a2d_sentences.py --source RAW --output DATASET
"""

import sys

from cvls import main

if __name__ == "__main__":
    main(["convert", "a2d_sentences", *sys.argv[1:]])
