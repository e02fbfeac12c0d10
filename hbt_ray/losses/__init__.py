"""Losses of contrastive training. A loss is a module of this package and a line of LOSSES."""

from hbt_ray.losses.base import Loss
from hbt_ray.losses.consistency import TranslationConsistency
from hbt_ray.losses.distillation import Distillation
from hbt_ray.losses.info_nce import InfoNCE

# Name, which is the loss's module and, except for InfoNCE, its key in the configuration's section `loss` -> class.
# The terms are computed and added in this order.
LOSSES: dict[str, type[Loss]] = {
    "info_nce": InfoNCE,
    "distillation": Distillation,
    "consistency": TranslationConsistency,
}
