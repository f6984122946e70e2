"""AWS's containers by instance type, and the form of the model.tar.gz that they load. Pure.

The containers are listed at https://github.com/aws/deep-learning-containers/blob/master/available_images.md. The
accounts that own them, by region, are in the SageMaker SDK; a test compares them.
"""

from dataclasses import dataclass
from enum import StrEnum

from serve.errors import SettingsError


class ModelForm(StrEnum):
    """What a container loads.

    ``ONNX``: the archive as it is, by ``serve/inference.py``; ``TORCHSCRIPT``: the archive's program converted to
    TorchScript, by ``serve/aws/inference_torchscript.py``, where the container's Python is too old for the archive's
    code.
    """

    ONNX = "onnx"
    TORCHSCRIPT = "torchscript"


GRAVITON, INFERENTIA, GPU = "ml.c7g.large", "ml.inf2.xlarge", "ml.g4dn.xlarge"
"""One instance type of each kind that replaces Elastic Inference."""
SERVERLESS_MB = 3072

OWNER = "763104351884"
OWNERS = {
    "af-south-1": "626614931356",
    "ap-east-1": "871362719292",
    "ap-east-2": "975050140332",
    "ap-northeast-3": "364406365360",
    "ap-south-2": "772153158452",
    "ap-southeast-3": "907027046896",
    "ap-southeast-4": "457447274322",
    "ap-southeast-5": "550225433462",
    "ap-southeast-6": "633930458069",
    "ap-southeast-7": "590183813437",
    "ca-west-1": "204538143572",
    "cn-north-1": "727897471807",
    "cn-northwest-1": "727897471807",
    "eu-central-2": "380420809688",
    "eu-south-1": "692866216735",
    "eu-south-2": "503227376785",
    "il-central-1": "780543022126",
    "me-central-1": "914824155844",
    "me-south-1": "217643126080",
    "mx-central-1": "637423239942",
    "us-gov-east-1": "446045086412",
    "us-gov-west-1": "442386744353",
}
"""Region -> account that owns AWS's images there, where it is not OWNER."""

CPU_TAG, GPU_TAG, GRAVITON_TAG = "2.6.0-cpu-py312", "2.6.0-gpu-py312", "2.4.0-cpu-py311-ubuntu22.04-sagemaker"
EIA_TAG, NEURONX_TAG = "1.5.1-cpu-py3", "2.7.0-neuronx-py310-sdk2.24.1-ubuntu22.04"

_GRAVITON_FAMILIES = ("c6g", "c7g", "c8g", "m6g", "m7g", "m8g", "r6g", "r7g", "r8g")
_GPU_FAMILIES = ("g", "p")
_NO_NETWORK = "not verified against AWS"


@dataclass(frozen=True, kw_only=True)
class Image:
    """A container.

    ``guardrails``: whether an update can be a canary that alarms roll back; ``start_timeout_s``: how long it may take
    to start; ``warnings``: what to tell the user before it is used.
    """

    uri: str
    form: ModelForm = ModelForm.ONNX
    guardrails: bool = True
    start_timeout_s: int = 600
    warnings: tuple[str, ...] = ()


def image_for(region: str, instance_type: str, accelerator: str = "") -> Image:
    """The container for an instance type, with Elastic Inference where ``accelerator`` names one.

    Raises SettingsError for Inferentia of the first generation, which loads neither form.
    """
    if accelerator:
        uri = _uri(region, f"pytorch-inference-eia:{EIA_TAG}")
        return Image(uri=uri, form=ModelForm.TORCHSCRIPT, guardrails=False, warnings=(_elastic_inference(accelerator),))
    family = instance_type.removeprefix("ml.").partition(".")[0]
    if family == "inf1":
        raise SettingsError(f"{instance_type} has Inferentia of the first generation; use {INFERENTIA} or {GRAVITON}")
    if family in ("inf2", "trn1", "trn2"):
        return Image(
            uri=_uri(region, f"pytorch-inference-neuronx:{NEURONX_TAG}"),
            form=ModelForm.TORCHSCRIPT,
            start_timeout_s=1800,
            warnings=(_neuron(instance_type),),
        )
    if family.startswith(_GRAVITON_FAMILIES):
        return Image(uri=_uri(region, f"pytorch-inference-graviton:{GRAVITON_TAG}"))
    return Image(uri=_uri(region, f"pytorch-inference:{GPU_TAG if family.startswith(_GPU_FAMILIES) else CPU_TAG}"))


def _uri(region: str, name: str) -> str:
    domain = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
    return f"{OWNERS.get(region, OWNER)}.dkr.ecr.{region}.{domain}/{name}"


def _elastic_inference(accelerator: str) -> str:
    return (
        f"Elastic Inference ({accelerator}) has been closed to new customers since 2023-04-15, and this is "
        f"{_NO_NETWORK}. Instead: --instance-type {GRAVITON} (Graviton), --instance-type {INFERENTIA} (Inferentia2), "
        f"--serverless-memory-mb {SERVERLESS_MB} (serverless), --instance-type {GPU} (a GPU)"
    )


def _neuron(instance_type: str) -> str:
    return (
        f"{instance_type}: the container compiles the model for its accelerator when it starts, which takes minutes; "
        f"this is {_NO_NETWORK}"
    )
