"""The loop that drains the store: claim due deliveries, make attempts, record outcomes.

A delivery meets these devices between its claim and its recorded outcome, in this order. Pages and decisions are in ``docs/``.

When to look, and what to claim (``claim/``):

1. Early polls, after a commit: ``claim/poll_times.py``, which explains them.
2. Due bounds, while searches are slow: ``claim/due_bounds.py``, which explains them.
3. The gate's claim limit: ``EndpointRun.claim_limit``; decision 14.
4. The claim size, of which the endpoint uses up half first: ``ClaimSize`` in ``limiting/ahead.py``; decision 18.
5. The cap of claims, in total: ``MOST_CLAIMED`` in ``claim/plan.py``; decision 18.
6. The rate's claim limit: ``most_claimed`` in ``limiting/rate.py``, which explains it.
7. The memory of bodies: ``flights/flights.py``; decision 18.
8. Half of a claim for new events: ``claim/plan.py``; decision 21.
9. The first sends begin with the claim: ``claim/plan.py``; decision 16.

Before its task run starts (``send/``):

10. Alone or in a chunk: ``send/starting.py`` and ``limiting/alone.py``; decision 20.
11. Prefect's records must catch up, if it goes alone: ``before_each`` in ``send/starting.py``; decision 9.
12. A slot of the endpoint's rate: ``limiting/rate.py``, which explains it.
13. The line of the endpoint, in which only the first asks: ``send/admission.py``; decision 14.
14. The task runs that are starting, eight at most: ``send/admission.py``; decision 1.
15. The gate's permission: ``send/admission.py``; decision 14.
16. The token that the endpoint needs: ``send/admission.py``; ``how-to/oauth.md``.
17. A slot of this process, fewer as latency rises: ``limiting/limiter.py`` and ``limiting/latency.py``; decision 18.

In its task run:

18. The window of a chunk that begins ahead of its sends: ``send/ahead.py`` and ``PrefetchWindow``; decision 16.
19. Gathered commits, of beginnings and outcomes: ``send/batch_writer.py``, which explains them; decision 16.
"""
