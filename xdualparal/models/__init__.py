"""Model families that DualParal can run."""

from .wan import WanFamily

FAMILIES = (WanFamily,)


def family_of(pipeline):
    """The family of a diffusers pipeline's transformer. Raises ValueError when none is known."""
    name = type(pipeline).__name__
    for family in FAMILIES:
        if isinstance(pipeline, family.pipeline_class()):
            return family()
    known = ", ".join(family.pipeline_class().__name__ for family in FAMILIES)
    raise ValueError(f"{name} has no DualParal support: give one of {known}")
