"""Tables of the paper and of its ablations: ours beside the published figures, with what each claim came to."""
