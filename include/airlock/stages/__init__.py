"""What all kinds of pipelines share of the stages; nothing here imports a kind."""
