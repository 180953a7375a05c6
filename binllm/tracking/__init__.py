"""What a run leaves behind: records, the run folder, resume state, provenance, progress, the W&B export."""
