"""What a study means to a person, as plain values and text: no rich, no Ray, no MLflow."""
