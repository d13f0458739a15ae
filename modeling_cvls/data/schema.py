"""The one schema of every data set: one row a video, with its sentences and its instance masks."""

from datasets import Dataset, Features, Image, IterableDataset, List, Value, Video

#: Columns of a data set of video sentences. M instances, A annotated frames.
#:
#: - `video`: the encoded file (`{"bytes", "path"}`), or null where the source is a folder of images;
#: - `frames`: the encoded frames in order, or null where the source is a video file;
#: - `num_frames`, `height`, `width` (pixels), `fps` (frames a second; null where the source names none);
#: - `annotated_frames`: A frame numbers, 0-based and ascending;
#: - `evaluation_frames`: frame numbers, where a benchmark evaluates only some; null: all annotated ones;
#: - `instance_ids`: M ids, as the source writes them;
#: - `masks`: A lists of M strings, the counts of a COCO compressed RLE of size [height, width];
#:   null: this instance is not annotated in this frame;
#: - `sentences`: `instances` are indices into `instance_ids`, empty where the sentence has no referent;
#:   `kind` is the kind of sentence, where the source names one.
FEATURES = Features(
    {
        "video_id": Value("string"),
        "video": Video(decode=False),
        "frames": List(Image(decode=False)),
        "num_frames": Value("int32"),
        "height": Value("int32"),
        "width": Value("int32"),
        "fps": Value("float32"),
        "annotated_frames": List(Value("int32")),
        "evaluation_frames": List(Value("int32")),
        "instance_ids": List(Value("string")),
        "masks": List(List(Value("string"))),
        "sentences": List(
            {
                "sentence_id": Value("string"),
                "text": Value("string"),
                "instances": List(Value("int32")),
                "kind": Value("string"),
            }
        ),
    }
)


def check_dataset(dataset: Dataset | IterableDataset, name: str) -> None:
    """Raises a `ValueError` that names the missing columns unless `dataset` has every column of `FEATURES`.

    Args:
        dataset: one split, loaded or streamed.
        name: how the message calls it, for example its path and split.
    """
    # A streamed data set knows its columns only from its first row where its files carry no schema.
    columns = dataset.column_names or list(next(iter(dataset), {}))
    missing = [column for column in FEATURES if column not in columns]
    if missing:
        raise ValueError(
            f"{name} is not a data set of video sentences: it lacks the columns {', '.join(missing)} "
            f"(it has {', '.join(columns) or 'none'}). The columns and their types are listed in "
            "modeling_cvls.data.FEATURES (modeling_cvls/data/schema.py); "
            "the scripts in dataset_scripts/ write such data sets."
        )
