"""The weights that a replica computes with: whether they are numbers, and what tells them apart from others.

Knows: which parts of a pipeline this rank uses, and the other ranks of its replica. Must not know: what the parts compute.
"""

from ..models.finite import not_finite, refusal
from ..models.identity import digest_of_parts, part_sums


class UsedWeights:
    """``replica``: see replica.Replica. ``parts()``: {name: module or None} of what this rank uses; those of all ranks are all.
    ``sums``: of parts that were here before, see identity.part_sums. ``first_layer``: of the transformer, as there.
    """

    def __init__(self, replica, parts, sums, first_layer):
        self._replica, self._parts, self._sums, self._first_layer = replica, parts, sums, first_layer
        self._kept = None

    def check(self):
        """Raises ValueError on all ranks where one rank has a weight that is a NaN or an infinity."""
        found = [(part, not_finite(module)) for part, module in self._parts().items() if module is not None]
        gathered = self._replica.gather_objects(found)
        wrong = self._replica.share_object(gathered and [one for rank in gathered for one in rank if one[1] is not None])
        if wrong:
            raise refusal(*wrong[0])

    def digests(self):
        """{part: digest} of all parts, with their configurations, by all ranks together. It reads all weights."""
        if self._kept is not None:
            return self._kept
        gathered = self._replica.gather_objects(self._sums | part_sums(self._parts(), self._first_layer))
        return self._replica.share_object(gathered and digest_of_parts(gathered))

    def freeze(self):
        """Computes the digests for the last time."""
        self._kept = self.digests()
