"""OpenAI's API under `/v1`, for every client that speaks it."""
