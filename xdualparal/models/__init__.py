"""Model families that DualParal can run."""

from .wan import WanFamily

FAMILIES = (WanFamily,)


def family_of(pipeline):
    """Returns the family that runs ``pipeline``, a diffusers pipeline.

    Raises ValueError when there is none, or when the family would compute this pipeline wrongly.
    """
    for family in FAMILIES:
        if isinstance(pipeline, family.classes().pipeline):
            family.check_pipeline(pipeline)
            return family()
    known = ", ".join(family.classes().pipeline.__name__ for family in FAMILIES)
    raise ValueError(f"{type(pipeline).__name__} has no DualParal support: give one of {known}")
