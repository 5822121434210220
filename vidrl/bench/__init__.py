"""Any folder of videos, or any model, measured: a suite's dims, with intervals, paired differences and a page."""
