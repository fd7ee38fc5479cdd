"""llama.cpp through llama-cpp-python's low-level batch API."""
