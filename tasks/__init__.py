"""The steps of the flows. Those of ``tasks.emit`` are Prefect tasks, which send; the others are functions that flows call."""
