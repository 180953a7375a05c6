"""Golden vectors of the published code of BiLLM and ARB-LLM: their format, and this project's answers to them."""
