"""CVLS: contrastive video-language segmentation, built on the Hugging Face libraries.

Importing the package registers its classes: `AutoConfig`, `AutoModel`, `AutoProcessor` and
`pipeline("video-language-segmentation")` then know `model_type` "cvls", and checkpoints are saved with their code.
"""

from transformers import AutoConfig, AutoModel, AutoProcessor
from transformers.models.auto.video_processing_auto import AutoVideoProcessor
from transformers.pipelines import PIPELINE_REGISTRY

from .configuration_cvls import CVLSConfig
from .frame_reader_cvls import FrameReader
from .live_cvls import CVLSLive
from .modeling_cvls import CVLSModel, CVLSOutput
from .pipeline_cvls import CVLSPipeline
from .processing_cvls import CVLSProcessor
from .session_cvls import CVLSVideoSession
from .video_processing_cvls import CVLSVideoProcessor

__version__ = "0.2.0"

AutoConfig.register("cvls", CVLSConfig)
AutoModel.register(CVLSConfig, CVLSModel)
AutoVideoProcessor.register(CVLSConfig, CVLSVideoProcessor)
AutoProcessor.register(CVLSConfig, CVLSProcessor)
PIPELINE_REGISTRY.register_pipeline(
    "video-language-segmentation", pipeline_class=CVLSPipeline, pt_model=AutoModel, type="multimodal"
)

__all__ = [
    "CVLSConfig",
    "CVLSLive",
    "CVLSModel",
    "CVLSOutput",
    "CVLSPipeline",
    "CVLSProcessor",
    "CVLSVideoProcessor",
    "CVLSVideoSession",
    "FrameReader",
]
