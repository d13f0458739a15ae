"""A result as the annotations of other tools."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import numpy as np
from pycocotools import mask as coco_mask

if TYPE_CHECKING:
    from .video import VideoResult


def _rle(result: VideoResult, sentence: int, frame: int) -> dict[str, Any]:
    return {"size": [result.height, result.width], "counts": result.counts[sentence][frame]}


def _categories(result: VideoResult) -> list[dict[str, Any]]:
    return [{"id": number, "name": sentence} for number, sentence in enumerate(result.sentences, start=1)]


def _measures(rle: dict[str, Any]) -> tuple[float, list[float]]:
    return float(coco_mask.area(rle)), coco_mask.toBbox(rle).tolist()


def to_coco(result: VideoResult) -> dict[str, Any]:
    """See `VideoResult.to_coco`."""
    images, annotations = [], []
    for frame, (index, name) in enumerate(zip(result.frame_indices, result.frame_names, strict=True)):
        images.append(
            {
                "id": frame + 1,
                "file_name": f"{result.name}/{name}{result.frame_suffix}",
                "height": result.height,
                "width": result.width,
                "frame_index": index,
            }
        )
        for sentence in range(len(result.sentences)):
            rle = _rle(result, sentence, frame)
            area, box = _measures(rle)
            if area:
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": frame + 1,
                        "category_id": sentence + 1,
                        "segmentation": rle,
                        "area": area,
                        "bbox": box,
                        "iscrowd": 0,
                        "score": result.frame_scores[sentence][frame],
                        "track_id": sentence + 1,
                    }
                )
    return {"images": images, "annotations": annotations, "categories": _categories(result)}


def to_youtube_vis(result: VideoResult) -> dict[str, Any]:
    """See `VideoResult.to_youtube_vis`."""
    frames = range(len(result.frame_indices))
    annotations = []
    for sentence, score in enumerate(result.scores):
        rles = [_rle(result, sentence, frame) for frame in frames]
        measures = [_measures(rle) for rle in rles]
        annotations.append(
            {
                "id": sentence + 1,
                "video_id": 1,
                "category_id": sentence + 1,
                "segmentations": [rle if area else None for rle, (area, _) in zip(rles, measures, strict=True)],
                "areas": [area or None for area, _ in measures],
                "bboxes": [box if area else None for area, box in measures],
                "iscrowd": 0,
                "score": score,
            }
        )
    video = {
        "id": 1,
        "file_names": [f"{result.name}/{name}{result.frame_suffix}" for name in result.frame_names],
        "height": result.height,
        "width": result.width,
        "length": len(frames),
    }
    return {"videos": [video], "annotations": annotations, "categories": _categories(result)}


def to_supervision(result: VideoResult) -> list:
    """See `VideoResult.to_supervision`."""
    try:
        import supervision
    except ImportError as error:
        raise ImportError("supervision is not installed: pip install supervision") from error
    detections = []
    for frame in range(len(result.frame_indices)):
        masks = result.masks(frame)
        found = np.flatnonzero(masks.any(axis=(1, 2)))
        if not len(found):
            detections.append(supervision.Detections.empty())
            continue
        detections.append(
            supervision.Detections(
                xyxy=supervision.mask_to_xyxy(masks[found]).astype(float),
                mask=masks[found],
                confidence=np.array([result.frame_scores[number][frame] for number in found]),
                class_id=found,
                tracker_id=found,
                data={"class_name": np.array([result.sentences[number] for number in found])},
            )
        )
    return detections


def to_cvat(result: VideoResult) -> str:
    """See `VideoResult.to_cvat`."""
    root = ElementTree.Element("annotations")
    ElementTree.SubElement(root, "version").text = "1.1"
    task = ElementTree.SubElement(ElementTree.SubElement(root, "meta"), "task")
    ElementTree.SubElement(task, "name").text = result.name
    labels = ElementTree.SubElement(task, "labels")
    for text in dict.fromkeys(result.sentences):
        ElementTree.SubElement(ElementTree.SubElement(labels, "label"), "name").text = text
    size = ElementTree.SubElement(task, "original_size")
    ElementTree.SubElement(size, "width").text = str(result.width)
    ElementTree.SubElement(size, "height").text = str(result.height)
    count = 0
    for position, frame in enumerate(result.frame_indices):
        masks = result.masks(position)
        for sentence in np.flatnonzero(masks.any(axis=(1, 2))):
            label = result.sentences[sentence]
            track = ElementTree.SubElement(root, "track", id=str(count), label=label, source="auto")
            count += 1
            shown = {"occluded": "0", "keyframe": "1", "z_order": "0", **_mask_attributes(masks[sentence])}
            ElementTree.SubElement(track, "mask", frame=str(frame), outside="0", **shown)
            if frame + 1 < len(result.reader):  # where the track ends, as CVAT writes it
                ElementTree.SubElement(track, "mask", frame=str(frame + 1), outside="1", **shown)
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def _mask_attributes(mask: np.ndarray) -> dict[str, str]:
    """The box of a mask, and the lengths of runs through the rows of the box, the first one outside the mask."""
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    box = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    flat = np.concatenate([[False], box.reshape(-1)])
    ends = [*np.flatnonzero(flat[1:] != flat[:-1]).tolist(), box.size]
    numbers = {"left": columns[0], "top": rows[0], "width": box.shape[1], "height": box.shape[0]}
    runs = ", ".join(map(str, np.diff([0, *ends]).tolist()))
    return {"rle": runs, **{name: str(number) for name, number in numbers.items()}}
