"""The command line ``cgm``, also ``python -m cgm_models.cli``."""
