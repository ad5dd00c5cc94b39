"""The error of a world in which an invariant does not hold."""


class Broken(AssertionError):
    """An invariant does not hold."""

    def __init__(self, invariant: str, why: str, cause: BaseException | None = None) -> None:
        super().__init__(f"{invariant}: {why}")
        self.invariant = invariant
        self.__cause__ = cause
