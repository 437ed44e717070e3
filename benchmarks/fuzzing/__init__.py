"""What `benchmarks/fuzz.py` tries: calls, headers of CTs and of X-ray images, whole files."""
