"""The parts of the stages that all kinds of pipelines share; no module here imports a kind."""
