"""J-HMDB Sentences -> a folder that `datasets.load_dataset` loads: the same as `cvls convert jhmdb_sentences`.

python dataset_scripts/jhmdb_sentences.py --source RAW --output DATASET
"""

import sys

from cvls import main

if __name__ == "__main__":
    main(["convert", "jhmdb_sentences", *sys.argv[1:]])
