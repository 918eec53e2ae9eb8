"""The contents of a run's folder, as data: the ledger folded into curves, attempts, verdicts and a summary.

Everyone who shows a run (reports, TensorBoard, the log viewer) shows these values. Knows no torch, no words and no
drawing, and prints nothing.
"""
