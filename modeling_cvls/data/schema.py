"""The one schema of every data set: one row per video, with its sentences and its instance masks."""

from datasets import Dataset, Features, Image, IterableDataset, List, Value, Video

#: What each column of a data set of video sentences holds. M objects (instances), A annotated frames.
COLUMNS = {
    "video_id": "the video's name, as the source writes it",
    "video": 'the encoded file, `{"bytes", "path"}`; null where the source is a folder of images',
    "frames": "the encoded frames in order; null where the source is a video file",
    "num_frames": "number of frames of the video",
    "height": "height of the frames, in pixels",
    "width": "width of the frames, in pixels",
    "fps": "frames per second; null where the source does not say",
    "annotated_frames": "A frame numbers, from 0 and ascending",
    "evaluation_frames": "frame numbers, where a benchmark evaluates only some; null: all annotated ones",
    "instance_ids": "M ids of the objects, as the source writes them",
    "masks": "A lists of M strings, each the counts of a COCO compressed RLE of size [height, width]; null: this "
    "object is not annotated in this frame",
    "sentences": "the sentences; `instances` are indices into `instance_ids`, empty where the sentence has no "
    "referent; `kind` is the kind of the sentence, where the source names one",
}

#: The types of the columns.
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
            "`cvls convert` writes such data sets."
        )
