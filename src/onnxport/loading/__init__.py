"""Load configurations, models and preprocessors with Transformers, and account for every parameter."""
