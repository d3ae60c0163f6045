"""Load configurations, models and preprocessors with Transformers; every parameter is accounted for."""
