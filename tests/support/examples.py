"""The number of examples in generated tests: 50, and 200 in the nightly workflow; slow tests have fewer.

The 50 are the same in each run, so that a run never fails by luck. The others are new.
"""

import os

# ``RESONANT_FUZZ_EXAMPLES=7000`` is a million cases in all, since most fuzz tests make many cases of each example.
ALL = 200
ARE_NEW = "RESONANT_FUZZ_EXAMPLES" in os.environ
FUZZ_EXAMPLES = int(os.environ.get("RESONANT_FUZZ_EXAMPLES", str(ALL // 4)))
_FEWEST = 5
# The number of damaged copies of each text, since Hypothesis takes far longer to generate a text than a parser to refuse it.
WAYS = 50 if FUZZ_EXAMPLES > ALL else 20


def examples(number: int) -> int:
    """Return the number of examples to try, at most this number."""
    return max(_FEWEST, min(number, number * FUZZ_EXAMPLES // ALL))
