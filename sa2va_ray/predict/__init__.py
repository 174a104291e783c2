"""The predictor: plain Python. Serving, batch prediction and evaluation are shims around it."""
