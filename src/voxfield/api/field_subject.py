"""A field on photographs, trained or in training, as the viewer shows it."""

import torch

from voxfield.colour import linear_from_srgb
from voxfield.data.posed_images import PosedImages
from voxfield.distributed.devices import Placement
from voxfield.models.base import Model
from voxfield.render.image import colour_from_name
from voxfield.training.experiment import PhotographExperiment
from voxfield.viewer.subjects import FieldSubject


def field_subject(
    model: Model, captures: PosedImages, experiment: PhotographExperiment, placement: Placement
) -> FieldSubject:
    """A model, trained or in training on ``captures``, as the viewer shows it."""
    background = torch.tensor(colour_from_name(experiment.evaluation.background))
    linear = captures.tone is not None
    return FieldSubject(
        model,
        bounds=captures.bounds,
        background=linear_from_srgb(background) if linear else background,
        linear=linear,
        device=placement.device,
    )
