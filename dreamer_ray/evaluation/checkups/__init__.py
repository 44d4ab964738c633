"""The check-ups of the doctor, one file a question: from models and held-out data to figures, and from figures to a finding."""
